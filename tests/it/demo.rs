//! `clusterway demo`, as a newcomer runs it.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::support::{PATIENCE, kubectl::Kubectl, process::Process};

fn command(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clusterway"));
    command.arg("demo").args(arguments).env("HOME", home).env("TMPDIR", home).env_remove("KUBECONFIG");
    command
}

fn demo(arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let output = command(home.path(), arguments).output().unwrap();
    println!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_tour_needs_nothing_but_the_binary() {
    let output = demo(&["--tour"]);
    assert_eq!(output.status.code(), Some(0));
    let shown = stdout(&output);
    for step in ["east", "west", "watch", "logs", "exec"] {
        assert!(shown.contains(step), "{step}");
    }
}

#[test]
fn a_command_runs_with_a_context_per_cluster_and_its_exit_code_is_the_demos() {
    let output = demo(&["--", "sh", "-c", "cat \"$KUBECONFIG\"; echo \"FILE=$KUBECONFIG\"; exit 5"]);
    assert_eq!(output.status.code(), Some(5));
    let shown = stdout(&output);
    assert!(shown.contains("east") && shown.contains("west"), "{shown}");
    let file = shown.lines().find_map(|line| line.strip_prefix("FILE=")).unwrap();
    assert!(!Path::new(file).exists(), "{file} was left behind");
}

#[test]
fn a_demo_that_stays_says_what_to_try_and_cleans_up_when_it_is_told_to_stop() {
    let home = tempfile::tempdir().unwrap();
    for signal in ["INT", "TERM"] {
        let mut demo = Process::start(command(home.path(), &[]), &home.path().join("log"));
        let shown = demo.until("what to try", |seen| seen.contains("auth whoami"));
        let kubeconfig = shown.split("KUBECONFIG=").nth(1).unwrap().lines().next().unwrap().to_owned();
        assert!(Path::new(&kubeconfig).exists(), "{shown}");
        demo.signal(signal);
        assert_eq!(demo.wait(PATIENCE).code(), Some(0), "SIG{signal}: {}", demo.output());
        assert!(!Path::new(&kubeconfig).exists(), "SIG{signal}: {kubeconfig} was left behind");
    }
}

#[test]
fn kubectl_sees_the_pods_of_both_clusters() {
    let Some(kubectl) = Kubectl::newest("kubectl_sees_the_pods_of_both_clusters") else { return };
    let kubectl = kubectl.path.display().to_string();
    for context in ["east", "west"] {
        let output = demo(&["--", &kubectl, "--context", context, "get", "pods", "-A", "-o", "wide"]);
        assert_eq!(output.status.code(), Some(0));
        let shown = stdout(&output);
        assert!(shown.contains("NAMESPACE") && shown.contains("NODE"), "{shown}");
        assert!(shown.lines().filter(|line| line.contains("Running")).count() >= 1, "{shown}");
    }
}

#[test]
fn a_demo_that_is_told_to_stop_ends_its_command_and_cleans_up() {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["--", "sh", "-c", "echo \"FILE=$KUBECONFIG.\"; exec sleep 600"];
    let mut demo = Process::start(command(home.path(), &arguments), &home.path().join("log"));
    let shown = demo.until("the command", |seen| seen.contains("FILE=") && seen.contains(".\n"));
    let kubeconfig = shown.split("FILE=").nth(1).unwrap().split(".\n").next().unwrap().to_owned();
    assert!(Path::new(&kubeconfig).exists(), "{shown}");
    demo.signal("TERM");
    assert_eq!(demo.wait(PATIENCE).code(), Some(128 + 9), "{}", demo.output());
    assert!(!Path::new(&kubeconfig).exists(), "{kubeconfig} was left behind");
}
