#!/usr/bin/env bash
# One image for several architectures, of programs that are there already. Nothing is emulated, so a
# minute does for all of them:
#     images.sh DESTINATION OPTION...
# DESTINATION is where `buildah manifest push` writes to (docker://…, oci:FOLDER:TAG). The options are those of
# `buildah bud`; {} in them stands for the architecture. At the root of the repository, with the program and
# etc/ssl/certs/ca-certificates.crt in build/amd64 and build/arm64:
#     images.sh oci:images:keybound --build-context build=build/{} -f deploy/container/Containerfile .
# It prints the digest. The same files give the same one. ARCHITECTURES names others than these two, BUILDAH
# another buildah.
set -euo pipefail
destination=$1
shift
buildah=${BUILDAH:-buildah}
list=keybound-images-$$
scratch=$(mktemp -d)
trap 'rm -r "$scratch"; "$buildah" manifest rm "$list" >/dev/null 2>&1 || true' EXIT
for architecture in ${ARCHITECTURES:-amd64 arm64}; do
    # The isolation is for RUN, which no final stage has.
    "$buildah" bud --isolation chroot --no-cache --timestamp 0 --manifest "$list" --os linux \
        --arch "$architecture" "${@//\{\}/$architecture}" >&2
done
"$buildah" manifest push --quiet --all --digestfile "$scratch/digest" "$list" "$destination" >&2
cat "$scratch/digest"
echo
