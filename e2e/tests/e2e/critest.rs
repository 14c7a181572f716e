//! The CRI validation suite, whole: once here, in every configuration by `hack/critest --all`.

use anyhow::Result;
use davit_e2e::critest::{Options, run};

#[test]
fn the_validation_suite_passes() -> Result<()> {
    run(&Options::default()).map(drop)
}
