//! `clusterway demo --tour`: what the gateway does, shown with a client of our own, so that nothing but this program
//! is needed.
//!
//! Every line that it prints of an answer came through the gateway; when one is not as it should be, the tour fails.

use std::io::Write;

use anyhow::{Context as _, ensure};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{
    client::{Client, ClientError, Credential, Exec},
    fleet::{CLUSTERS, Fleet, STRANGER, USER},
};

const NAMESPACE: &str = "default";

/// Goes through everything and prints to `out` what happens.
///
/// # Errors
/// As soon as something is not as it should be.
pub async fn run(fleet: &Fleet, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let tom = |cluster| client(fleet, cluster, &fleet.token);
    let (east, west) = (tom(CLUSTERS[0])?, tom(CLUSTERS[1])?);
    writeln!(
        out,
        "Two API servers, {} and {}, behind one address: https://{}\n",
        CLUSTERS[0], CLUSTERS[1], fleet.address
    )?;

    for (name, client) in [(CLUSTERS[0], &east), (CLUSTERS[1], &west)] {
        step(out, &format!("kubectl --context {name} get pods -A"))?;
        let pods = client.table("/api/v1/pods").await.with_context(|| format!("pods of {name}"))?;
        ensure!(!pods.rows.is_empty(), "{name} has no pods");
        writeln!(out, "{pods}")?;
    }

    step(out, "kubectl auth whoami            # the member sees you, not the gateway")?;
    who_am_i(&east, out).await?;
    step(out, "kubectl get configmaps --watch # while somebody creates one")?;
    watch(&east, out).await?;
    let pod = first_pod(&east).await?;
    step(out, &format!("kubectl logs -f {}", pod.name))?;
    logs(&east, &pod, out).await?;
    step(out, &format!("kubectl exec -i {} -- sh -c 'cat; hostname >&2; exit 3'", pod.name))?;
    exec(&east, &pod, out).await?;

    step(out, &format!("And what is refused: {STRANGER}, whom no rule lets in"))?;
    let eve = client(fleet, CLUSTERS[0], &fleet.strangers_token)?;
    refused(eve.get("/api/v1/pods").await, out)?;
    step(out, "And a cluster that is not there")?;
    refused(tom("north")?.get("/api/v1/pods").await, out)?;
    Ok(())
}

fn client(fleet: &Fleet, cluster: &str, token: &str) -> anyhow::Result<Client> {
    let credential = Credential::Token(SecretString::from(token));
    Ok(Client::new(&fleet.server(cluster), fleet.ca_pem.as_bytes(), &credential)?)
}

fn step(out: &mut (dyn Write + Send), title: &str) -> std::io::Result<()> {
    writeln!(out, "── {title}")
}

async fn who_am_i(client: &Client, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = client.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await?;
    let user = &answer["status"]["userInfo"];
    ensure!(user["username"] == USER, "the member saw {user}");
    writeln!(out, "username {}, groups {}\n", user["username"], user["groups"])?;
    Ok(())
}

async fn watch(client: &Client, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let version = client.get(&path).await?["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    let mut watch = client.watch(&format!("{path}?watch=true&resourceVersion={version}")).await?;
    let config_map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "greeting"},
        "data": {"hello": "world"}});
    client.create(&path, &config_map).await?;
    client.delete(&format!("{path}/greeting")).await?;
    for expected in ["ADDED", "DELETED"] {
        let event = watch.next().await?.context("the watch ended early")?;
        ensure!(event.kind == expected, "{} instead of {expected}", event.kind);
        writeln!(out, "{:<8} {}", event.kind, event.object["metadata"]["name"])?;
    }
    writeln!(out)?;
    Ok(())
}

struct Pod {
    name: String,
    container: String,
}

async fn first_pod(client: &Client) -> anyhow::Result<Pod> {
    let list = client.get(&format!("/api/v1/namespaces/{NAMESPACE}/pods")).await?;
    let pod = list["items"].as_array().and_then(|items| items.first()).context("there is no pod")?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a pod without a name");
    Ok(Pod { name: text(&pod["metadata"]["name"])?, container: text(&pod["spec"]["containers"][0]["name"])? })
}

async fn logs(client: &Client, pod: &Pod, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let query = format!("follow=true&tailLines=1&container={}", pod.container);
    let mut lines = client.logs(NAMESPACE, &pod.name, &query).await?;
    for _ in 0..3 {
        let line = lines.next().await?.context("the log ended early")?;
        writeln!(out, "{line}")?;
    }
    writeln!(out)?;
    Ok(())
}

async fn exec(client: &Client, pod: &Pod, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let said = "through the gateway and back\n";
    let output = client
        .exec(Exec {
            namespace: NAMESPACE,
            pod: &pod.name,
            container: &pod.container,
            command: &["sh", "-c", "cat; hostname >&2; exit 3"],
            stdin: Some(said.into()),
        })
        .await?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    ensure!(stdout == said && output.code == 3, "exit code {}, stdout {stdout:?}", output.code);
    write!(
        out,
        "stdout: {stdout}stderr: {}exit code {}\n\n",
        String::from_utf8_lossy(&output.stderr),
        output.code
    )?;
    Ok(())
}

fn refused(answer: Result<Value, ClientError>, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    match answer {
        Ok(_) => anyhow::bail!("it was not refused"),
        Err(refusal) => writeln!(out, "{refusal}\n")?,
    }
    Ok(())
}
