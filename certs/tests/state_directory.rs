//! The state directory between processes.

use std::{
    env,
    path::Path,
    process::{self, Child, Command, Stdio},
};

use clusterway_certs::StateDirectory;

/// Set in the processes that the test starts: the directory to open.
const DIRECTORY: &str = "CLUSTERWAY_CERTS_TEST_DIRECTORY";

/// Starts this very test again in processes of their own, which open the directory and do nothing else.
#[test]
fn processes_that_start_at_once_end_with_one_authority() {
    if let Some(directory) = env::var_os(DIRECTORY) {
        let found = StateDirectory::open(Path::new(&directory)).unwrap().authority().certificate_pem();
        std::fs::write(Path::new(&directory).with_extension(process::id().to_string()), found).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("state");
    let processes: Vec<_> = (0..6)
        .map(|_| {
            Command::new(env::current_exe().unwrap())
                .args(["--exact", "processes_that_start_at_once_end_with_one_authority"])
                .env(DIRECTORY, &directory)
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let kept = |process: &mut Child| {
        assert!(process.wait().unwrap().success());
        std::fs::read_to_string(directory.with_extension(process.id().to_string())).unwrap()
    };
    let found: Vec<_> = processes.into_iter().map(|mut process| kept(&mut process)).collect();
    let state = StateDirectory::open(&directory).unwrap();
    assert!(found.iter().all(|one| *one == state.authority().certificate_pem()));
    assert_eq!(std::fs::read_to_string(state.authority_file()).unwrap(), found[0]);
}
