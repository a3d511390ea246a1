//! Whether a listener answers as its OpenAPI document says: schemathesis, with every check.

use std::{io, path::Path, process::Stdio};

use millrace_local::process::{Process, Signal, bound};

/// Cases per operation; an acceptance run makes more of them.
const EXAMPLES: u32 = 10;
const EXAMPLES_OF_ACCEPTANCE: u32 = 200;
/// Which cases are made up.
const SEED: u32 = 20_261_127;

/// What schemathesis is to know beside the document.
#[derive(Clone, Debug, Default)]
pub struct Conformance {
    /// Address of the document; the operations are asked below it.
    pub document: String,
    /// Its own settings (`schemathesis.toml`): tokens, parameters, and which refusals no schema can foretell.
    pub settings: String,
}

impl Conformance {
    /// Asks for everything the document names. `Err` holds what did not agree, with a `curl` for each.
    pub async fn check(&self) -> io::Result<Result<(), String>> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/schemathesis/bin/st");
        if !program.exists() {
            let place = program.display();
            let message = format!("no schemathesis at {place}; run: deploy/install/deps.sh test");
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        let dir = tempfile::tempdir()?;
        let (settings, log) = (dir.path().join("schemathesis.toml"), dir.path().join("log"));
        std::fs::write(&settings, &self.settings)?;
        let is_acceptance = std::env::var_os("MILLRACE_ACCEPT").is_some();
        let examples = if is_acceptance { EXAMPLES_OF_ACCEPTANCE } else { EXAMPLES };
        let base = self.document.rsplit_once('/').map_or("", |(base, _)| base);
        let output = std::fs::File::create(&log)?;
        let mut command = bound(Signal::KILL, program);
        command
            .arg(format!("--config-file={}", settings.display()))
            .args(["run", &self.document, "--url", base, "--checks=all", "--no-color"])
            .args(["--continue-on-failure", "--no-shrink", "--output-truncate=false"])
            // How fast this machine makes cases up is no property of what is tested.
            .arg("--suppress-health-check=all")
            .args([format!("--max-examples={examples}"), format!("--seed={SEED}")])
            // It keeps what it has found for the next run.
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let status = Process::spawn(command)?.wait().await?;
        let said = std::fs::read_to_string(&log)?;
        Ok(if status.success() { Ok(()) } else { Err(said) })
    }
}
