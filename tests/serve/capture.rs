//! What is refused can be kept, and explained later.

use super::service::{Service, keybound};
use super::{block_on, check_with_forged_token, forged_token};
use std::fs;
use std::path::Path;

#[test]
fn a_refused_request_is_kept_without_its_signature_and_explained_for_the_same_reason() {
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path().to_str().unwrap();
    let mut service = Service::ready(&["--capture", folder, "--capture-max", "1"]);
    let response = block_on(check_with_forged_token(service.uri())).unwrap();
    assert_ne!(response.status.unwrap().code, 0);
    let line = service.wait_for("refused request kept");
    let file = Path::new(line["file"].as_str().unwrap());
    service.wait_for("no more refused requests are kept");

    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.contains("-token_signature_invalid-"), "{name}");
    let message = fs::read(file).unwrap();
    let token = forged_token();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let holds = |text: &str| message.windows(text.len()).any(|it| it == text.as_bytes());
    assert!(holds(signed) && !holds(signature));

    let config = service.folder.path().join("keybound.yaml");
    let mut explain = keybound();
    explain.arg("explain").arg("--config").arg(config).arg("--request").arg(file);
    let output = explain.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("blanked"), "{text}");
    assert!(text.ends_with(": token_signature_invalid\n"), "{text}");
}

#[test]
fn only_reasons_that_there_are_can_be_asked_for() {
    for (arguments, code) in [
        (&["--capture", "/nonexistent"][..], 1),
        (&["--capture", ".", "--capture-reasons", "bad_luck"], 2),
        (&["--capture-reasons", "token_expired"], 2),
    ] {
        let (_folder, file) = super::folder(|_, it| it);
        let output = keybound().arg("serve").arg("--config").arg(file).args(arguments).output();
        assert_eq!(output.unwrap().status.code(), Some(code), "{arguments:?}");
    }
}
