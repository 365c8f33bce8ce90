use bytes::Bytes;
use serde_json::json;

use super::*;

fn container() -> Arc<Container> {
    let spec = json!({"name": "app", "env": [{"name": "COLOUR", "value": "dark blue"}]});
    Arc::new(Container::new(&json!({"metadata": {"name": "web-0"}}), &spec))
}

struct Ran {
    status: i32,
    output: String,
    error: String,
}

/// Runs `command` in `container` with `input` on standard input.
async fn execute(
    container: &Arc<Container>,
    command: &[&str],
    input: impl Into<Bytes>,
) -> (i32, Vec<u8>, String) {
    let (output, mut written) = mpsc::channel(DEPTH);
    let (error, mut complained) = mpsc::channel(DEPTH);
    let stdio = Stdio {
        input: Input::of(input.into()).shared(),
        output: Output::Pipe(output),
        error: Output::Pipe(error),
    };
    let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    let mut shell = Shell::new(Arc::clone(container), None);
    let run = async move {
        let status = shell.execute(&command, &stdio).await;
        drop(stdio);
        status
    };
    let collect = async |receiver: &mut mpsc::Receiver<Bytes>| {
        let mut all = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            all.extend_from_slice(&bytes);
        }
        all
    };
    let (status, output, error) = tokio::join!(run, collect(&mut written), collect(&mut complained));
    (status, output, String::from_utf8(error).unwrap())
}

async fn script_in(container: &Arc<Container>, script: &str, input: &str) -> Ran {
    let (status, output, error) = execute(container, &["sh", "-c", script], input.to_owned()).await;
    Ran { status, output: String::from_utf8(output).unwrap(), error }
}

async fn script(script: &str) -> Ran {
    script_in(&container(), script, "").await
}

#[tokio::test]
async fn scripts_do_what_sh_does() {
    for (text, expected) in [
        ("echo one; echo two", "one\ntwo\n"),
        ("true && echo yes || echo no", "yes\n"),
        ("false && echo yes || echo no", "no\n"),
        ("! false && echo yes", "yes\n"),
        ("echo 'a  b' \"c  d\" e  f", "a  b c  d e f\n"),
        ("A='x  y'; echo $A \"$A\" '$A' ${A}z", "x y x  y $A x yz\n"),
        ("A=1 env | head -n 1; echo [$A]", "A=1\n[]\n"),
        ("false; echo $?; echo $?", "1\n0\n"),
        ("echo b a | wc -w", "2\n"),
        ("cd /etc && pwd; cat hostname", "/etc\nweb-0\n"),
        ("cd tmp; echo > a; cd; pwd; echo ~/x", "/root\n/root/x\n"),
        ("echo one >/tmp/f; echo two >>/tmp/f; cat </tmp/f; wc -l /tmp/f", "one\ntwo\n2 /tmp/f\n"),
        ("nope 2>/dev/null; echo $?", "127\n"),
        ("nope 2>&1 | cat", "sh: nope: not found\n"),
        ("echo hidden >/dev/null", ""),
        ("sh -c 'echo $0 $1 $#' a b", "a b 1\n"),
        ("echo 'echo from $1' >/tmp/s; sh /tmp/s here", "from here\n"),
        ("command -v bash >/dev/null && exec sh -c 'echo new' || echo old; echo never", "new\n"),
        ("test -d /tmp && [ 2 -gt 1 ] && [ ! -e /nope ] && echo all", "all\n"),
        ("mkdir -p /a/b; touch /a/b/c; ls /a; rm -r /a; ls / | head -1", "b\nbin\n"),
        ("echo $COLOUR; hostname; whoami", "dark blue\nweb-0\nroot\n"),
        ("export X=7; sh -c 'echo $X'; unset X; echo [$X]", "7\n[]\n"),
        ("head -c 5 /dev/zero | wc -c", "5\n"),
        ("echo -n abc | sha256sum", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -\n"),
        ("echo abcdef | tail -c+4; echo abcdef | tail -c 3", "def\nef\n"),
        ("echo -e 'a\\nb\\nc' >/f; tail -n 2 /f; tail -n +2 /f | head -1", "b\nc\nb\n"),
        ("echo $COLUMNS", "\n"),
        ("# nothing\n\necho x # y", "x\n"),
    ] {
        let ran = script(text).await;
        assert_eq!((ran.output.as_str(), ran.error.as_str()), (expected, ""), "{text}");
    }
}

#[tokio::test]
async fn statuses_are_those_of_the_last_command() {
    for (text, status) in [
        ("true", 0),
        ("false", 1),
        ("exit 3; echo never", 3),
        ("exit 300", 300 & 0xff),
        ("true | false", 1),
        ("false | true", 0),
        ("true | exit 4", 4),
        ("sh -c 'exit 5' || exit $?", 5),
        ("nope", 127),
        ("echo 'unterminated", 2),
        ("cat /nope", 1),
        ("echo > /etc", 1),
        ("[ 1", 2),
    ] {
        assert_eq!(script(text).await.status, status, "{text}");
    }
}

#[tokio::test]
async fn a_script_comes_line_by_line_from_standard_input_too() {
    let (status, output, error) =
        execute(&container(), &["sh"], "A=1\necho $A\nhead -n 1\nto head\nnope\nexit 9\necho never\n").await;
    assert_eq!((status, error.as_str()), (9, "sh: nope: not found\n"));
    assert_eq!(output, b"1\nto head\n");
}

#[tokio::test]
async fn an_unknown_command_is_127_and_says_what_there_is() {
    let (status, _, error) = execute(&container(), &["vim"], "").await;
    assert_eq!(status, NOT_FOUND);
    assert!(error.contains("exec: \"vim\": executable file not found in $PATH"), "{error}");
    assert!(error.contains("sha256sum"), "{error}");
    let (status, output, _) = execute(&container(), &["/bin/echo", "$HOME;"], "").await;
    assert_eq!((status, output.as_slice()), (0, &b"$HOME;\n"[..]));
}

#[tokio::test]
async fn an_endless_writer_ends_when_its_reader_does() {
    let ran = script("cat /dev/zero | head -c 3 | wc -c; cat /dev/zero | true").await;
    assert_eq!(ran.output, "3\n");
}

#[tokio::test]
async fn a_full_container_says_so() {
    let ran =
        script("cat /dev/zero > /tmp/big; echo $?; rm /tmp/big && echo x > /tmp/small && cat /tmp/small")
            .await;
    assert_eq!(ran.output, "1\nx\n");
    assert!(ran.error.contains("No space left on device"), "{}", ran.error);
}

#[tokio::test]
async fn nesting_has_an_end() {
    let ran = script("echo 'sh /tmp/s' > /tmp/s; sh /tmp/s").await;
    assert!(ran.error.contains("nested too deeply"), "{}", ran.error);
}

#[tokio::test]
async fn a_script_that_multiplies_itself_is_stopped() {
    let ran = script("echo 'sh /tmp/s | sh /tmp/s | sh /tmp/s' > /tmp/s; sh /tmp/s; echo still here").await;
    assert!(ran.error.contains("can't fork"), "{}", ran.error);
    assert_eq!(ran.output, "still here\n");
    let doubling = "A=$A$A; ".repeat(40);
    let ran = script(&format!("A=x; {doubling}")).await;
    assert!(ran.error.contains("A: not enough memory for variables"), "{}", ran.error);
    let many = "$A".repeat(20);
    let text = format!("A=x; {}echo \"{many}\"", "A=$A$A; ".repeat(17));
    assert!(script(&text).await.error.contains("argument list too long"));
}

#[tokio::test]
async fn an_endless_script_can_be_interrupted() {
    let endless = format!("echo '{}' > /tmp/s; sh /tmp/s", "sh /tmp/s; ".repeat(50));
    let container = container();
    let running = script_in(&container, &endless, "");
    assert!(tokio::time::timeout(std::time::Duration::from_millis(100), running).await.is_err());
}

#[tokio::test]
async fn containers_do_not_see_each_others_files() {
    let (one, two) = (container(), container());
    script_in(&one, "echo secret > /tmp/x", "").await;
    assert_eq!(script_in(&one, "cat /tmp/x", "").await.output, "secret\n");
    assert_eq!(script_in(&two, "cat /tmp/x", "").await.status, 1);
}

#[tokio::test]
async fn an_archive_made_here_is_read_by_others_and_here() {
    let container = container();
    let deep = format!("/src/{}", "d".repeat(120));
    let made = script_in(
        &container,
        &format!("mkdir -p {deep} /src/empty; echo one > {deep}/näme; head -c 70000 /dev/zero > /src/zeros"),
        "",
    )
    .await;
    assert_eq!((made.status, made.error.as_str()), (0, ""));
    let (status, archive, error) = execute(&container, &["tar", "cf", "-", "/src"], "").await;
    assert_eq!((status, error.as_str()), (0, "tar: Removing leading `/' from member names\n"));
    let names: Vec<String> = ::tar::Archive::new(&archive[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(
        names,
        [
            "src/".to_owned(),
            format!("{}/", &deep[1..]),
            format!("{}/näme", &deep[1..]),
            "src/empty/".to_owned(),
            "src/zeros".to_owned()
        ]
    );
    let (status, _, error) = execute(&container, &["tar", "-xmf", "-", "-C", "/tmp/copy"], archive).await;
    assert_eq!((status, error.as_str()), (0, ""));
    let copied =
        script_in(&container, &format!("cat /tmp/copy{deep}/näme; wc -c /tmp/copy/src/zeros"), "").await;
    assert_eq!(copied.output, "one\n70000 /tmp/copy/src/zeros\n");
}

#[tokio::test]
async fn an_archive_of_another_tar_is_extracted() {
    let long = format!("{}/{}", "a".repeat(90), "b".repeat(90));
    let mut builder = ::tar::Builder::new(Vec::new());
    for name in ["plain", &long, &"c".repeat(200)] {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o755);
        builder.append_data(&mut header, name, &b"hello"[..]).unwrap();
    }
    builder.append_pax_extensions([("path", "pax/ünïcode".as_bytes())]).unwrap();
    let mut header = ::tar::Header::new_ustar();
    header.set_size(3);
    header.set_path("short").unwrap();
    header.set_cksum();
    builder.append(&header, &b"pax"[..]).unwrap();
    let archive = builder.into_inner().unwrap();

    let container = container();
    let (status, _, error) =
        execute(&container, &["tar", "--no-same-owner", "-xf", "-", "-C", "/tmp"], archive).await;
    assert_eq!((status, error.as_str()), (0, ""));
    let text = format!("cd /tmp; cat plain {long} {} pax/ünïcode; test -x plain", "c".repeat(200));
    let ran = script_in(&container, &text, "").await;
    assert_eq!((ran.status, ran.output.as_str()), (0, "hellohellohellopax"));
}

#[tokio::test]
async fn an_archive_cannot_climb_out_and_links_are_refused_by_name() {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(4);
    header.as_old_mut().name[..11].copy_from_slice(b"../evil.txt");
    header.set_cksum();
    builder.append(&header, &b"evil"[..]).unwrap();
    let mut link = ::tar::Header::new_gnu();
    link.set_entry_type(::tar::EntryType::Symlink);
    link.set_size(0);
    builder.append_link(&mut link, "link", "/etc/hostname").unwrap();
    let mut header = ::tar::Header::new_gnu();
    header.set_size(4);
    builder.append_data(&mut header, "good", &b"good"[..]).unwrap();
    let container = container();
    let archive = builder.into_inner().unwrap();
    let (status, _, error) = execute(&container, &["tar", "xf", "-", "-C", "/tmp/in"], archive).await;
    assert_eq!(status, 2);
    assert!(error.contains("../evil.txt: Member name contains '..'"), "{error}");
    assert!(error.contains("link: links are not supported"), "{error}");
    let ran = script_in(&container, "cat /tmp/in/good; test -e /tmp/evil.txt", "").await;
    assert_eq!((ran.status, ran.output.as_str()), (1, "good"));
}

#[tokio::test]
async fn a_broken_archive_is_an_error() {
    for (archive, message) in
        [(vec![b'x'; 512], "does not look like a tar archive"), (vec![b'x'; 100], "Unexpected EOF")]
    {
        let (status, _, error) = execute(&container(), &["tar", "xf", "-"], archive).await;
        assert_eq!(status, 2);
        assert!(error.contains(message), "{error}");
    }
}
