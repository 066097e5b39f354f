// A control plane of a mesh: what istiod generates, for the objects in files, served to proxies on the loopback
// interface, with the certificates of workloads beside it, which on a node an agent hands out.
//
//	istio version
//	istio admit FOLDER
//	istio serve FOLDER
//	istio secrets FOLDER
//
// The folder has mesh.yaml (what is below meshConfig), istio.yaml (objects of Istio's kinds), kubernetes.yaml
// (Kubernetes' own) and identities/. What `admit` refuses, istiod's webhook would; `serve` takes it nevertheless, as
// istiod does where it has no webhook; `secrets` serves the certificates alone. Where it listens is the line of standard output that is JSON.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"k8s.io/apimachinery/pkg/util/yaml"

	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/config/schema/resource"
	"istio.io/istio/pkg/security"
	"istio.io/istio/pkg/test"
	"istio.io/istio/security/pkg/server/ca/authenticate"
)

var commands = map[string]func(t test.Failer, folder string){
	"admit": admit, "serve": serve, "secrets": secretsAlone,
}

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "version":
		info, _ := debug.ReadBuildInfo()
		for _, module := range info.Deps {
			if module.Path == "istio.io/istio" {
				fmt.Println(module.Version)
			}
		}
	case len(os.Args) == 3 && commands[os.Args[1]] != nil:
		if err := test.Wrap(func(t test.Failer) { commands[os.Args[1]](t, os.Args[2]) }); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: istio version | admit FOLDER | serve FOLDER | secrets FOLDER")
		os.Exit(2)
	}
}

func read(t test.Failer, folder, name string) string {
	text, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func admit(t test.Failer, folder string) {
	if _, _, err := crd.ParseInputs(read(t, folder, "istio.yaml")); err != nil {
		t.Fatal(err)
	}
}

func serve(t test.Failer, folder string) {
	meshConfig, err := mesh.ApplyMeshConfig(read(t, folder, "mesh.yaml"), mesh.DefaultMeshConfig())
	if err != nil {
		t.Fatalf("mesh.yaml: %v", err)
	}
	objects := parse(t, read(t, folder, "istio.yaml"))
	// Proxies say who they are by a header, as they do behind a gateway that istiod trusts.
	security.AuthPlaintext = true
	discovery := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{
		Configs:                    objects,
		KubernetesObjectString:     read(t, folder, "kubernetes.yaml"),
		MeshConfig:                 meshConfig,
		ListenerBuilder:            func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") },
		DisableSecretAuthorization: true,
	})
	discovery.Discovery.Authenticators = []security.Authenticator{&authenticate.XfccAuthenticator{}}
	listens(map[string]string{"discovery": discovery.Listener.Addr().String(), "secrets": serveSecrets(t, folder)})
}

func secretsAlone(t test.Failer, folder string) {
	listens(map[string]string{"secrets": serveSecrets(t, folder)})
}

// listens says where, and goes on.
func listens(where map[string]string) {
	line, _ := json.Marshal(where)
	fmt.Println(string(line))
	select {}
}

// parse reads objects, which must be of Istio's kinds, whatever the webhook would say to them.
func parse(t test.Failer, text string) []config.Config {
	var found []config.Config
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		var object crd.IstioKind
		if err := decoder.Decode(&object); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatalf("istio.yaml: %v", err)
		}
		kind := object.GroupVersionKind()
		schema, known := collections.PilotGatewayAPI().FindByGroupVersionAliasesKind(resource.FromKubernetesGVK(&kind))
		if !known {
			t.Fatalf("istio.yaml: %v is not a kind of Istio's", kind)
		}
		converted, err := crd.ConvertObject(schema, &object, "")
		if err != nil {
			t.Fatalf("istio.yaml: %s: %v", object.Name, err)
		}
		found = append(found, *converted)
	}
}
