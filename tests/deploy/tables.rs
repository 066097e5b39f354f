//! The tables of tests, by the schema that the program prints for them. `tables.py` has the cases.

use crate::programs::provisioned;
use crate::succeeds;
use std::path::Path;
use std::process::Command;

#[test]
fn every_table_is_as_the_schema_for_tables_says() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/tables.py");
    let mut command = Command::new(provisioned("python-tools"));
    succeeds(command.arg(script).arg(env!("CARGO_BIN_EXE_keybound")));
}
