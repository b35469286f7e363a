//! What an action sees and what it cannot reach.

use dbuild_helper::SandboxChoice;
use dbuild_proto::pool::fault::Kind;

use crate::bench::{Bench, Order};
use crate::roots::{Root, which};

#[tokio::test]
async fn it_sees_only_itself() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let root = bench.shell().file("etc/in", "input", false);
    let script =
        "cd /proc; echo [0-9]*; cd /; echo *; id -u; id -g; cat /etc/in; echo; cat /proc/sys/kernel/hostname";
    let said = bench.says(&Order::script(&root, script)).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "1 2");
    for name in lines[1].split(' ') {
        assert!(
            ["bin", "dev", "etc", "lib", "lib64", "proc", "tmp", "usr", "work"].contains(&name),
            "{name}"
        );
    }
    assert_eq!(lines[2..], ["1000", "1000", "input", "dbuild"]);
    bench.stop().await;
}

#[tokio::test]
async fn it_runs_as_the_command_says() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let root = bench.shell().link("work/my cc", "/usr/bin/sh");
    let order = Order::new(&root, &["./my cc", "-c", "echo $0; cat; umask; pwd", "zero"]);
    assert_eq!(bench.says(&order).await, "zero\n0022\n/work\n");
    let mut environ = Order::new(&root, &["cat", "/proc/self/environ"]);
    environ.env = vec!["B=2".into(), "PATH=/usr/bin:/bin".into(), "A=a b".into()];
    assert_eq!(bench.says(&environ).await, "B=2\0PATH=/usr/bin:/bin\0A=a b\0");
    let argv0 = Order::new(&root, &["cat", "/proc/self/cmdline"]);
    assert_eq!(bench.says(&argv0).await, "cat\0/proc/self/cmdline\0");
    let absent = bench.fault(&Order::new(&root, &["no-such-program"])).await;
    assert_eq!(absent.kind(), Kind::BadAction);
    assert!(absent.message.contains("no-such-program"), "{}", absent.message);
    bench.stop().await;
}

#[tokio::test]
async fn who_asks_for_a_jobserver_has_one() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let root = bench.shell();
    // Of one slot there is no token but the one that every client has.
    let script =
        "printf + >&101; printf - >/dev/fd/101; head -c1 <&100; head -c1 </dev/fd/100; echo; echo $JOBS";
    let mut order = Order::new(&root, &["bash", "-c", script]);
    let without = bench.result(&order).await;
    assert!(String::from_utf8_lossy(&without.stderr_raw).contains("101: Bad file descriptor"), "{without:?}");
    order.jobserver = Some("JOBS".into());
    assert_eq!(bench.says(&order).await, "+-\n-j --jobserver-fds=100,101 --jobserver-auth=100,101\n");
    order.jobserver = Some("A=B".into());
    assert_eq!(bench.fault(&order).await.kind(), Kind::BadAction);
    bench.stop().await;
}

#[tokio::test]
async fn there_is_no_network() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let root = bench.shell();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    let result = bench.result(&Order::new(&root, &["bash", "-c", &script])).await;
    assert_ne!(result.exit_code, 0);
    let said = bench.says(&Order::script(&root, "cat /proc/net/dev")).await;
    let devices: Vec<&str> =
        said.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
    assert_eq!(devices, ["lo"]);
    bench.stop().await;
}

/// An action may do what it likes to what it sees: the next one with the same inputs sees them as they were.
#[tokio::test]
async fn inputs_are_beyond_reach() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let root = bench.shell().file("etc/in", "same", false).file("work/in", "same", false).file(
        "work/sub/in",
        "s",
        false,
    );
    let attack = "for f in /etc/in in sub/in; do (chmod 777 $f; echo bad > $f) 2>/dev/null; done; \
                  (echo bad > /etc/new; echo bad > sub/new; mkdir /new; echo bad > /proc/sys/kernel/hostname; \
                  ln -f /etc/in hard; chmod 777 hard; echo bad > hard) 2>/dev/null; \
                  cat /etc/in sub/in; ls /etc sub";
    assert_eq!(bench.says(&Order::script(&root, attack)).await, "sames/etc:\nin\n\nsub:\nin\n");
    let look = Order::script(&root, "cat in sub/in /etc/in");
    assert_eq!(bench.says(&look).await, "samessame");
    bench.stop().await;
}

/// In a user namespace of its own it could have its own mounts, and reach what lies under ours.
#[tokio::test]
async fn it_gets_no_user_namespace() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let root = bench.shell().program(which("unshare"));
    let script = "unshare --user true 2>&1 || echo none; cat /proc/sys/user/max_user_namespaces; \
                  (echo 9 > /proc/sys/user/max_user_namespaces) 2>/dev/null || echo forbidden";
    let said = bench.says(&Order::script(&root, script)).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[1..], ["none", "0", "forbidden"], "{said}");
    assert!(lines[0].starts_with("unshare:"), "{said}");
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap();
    assert_ne!(limit.trim(), "0", "the machine's own limit was set");
    bench.stop().await;
}

#[tokio::test]
async fn equal_files_stay_different_files() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let root = bench.shell().file("a/config.h", "", false).file("b/config.h", "", false);
    let said = bench.says(&Order::script(&root, "ls -i /a/config.h /b/config.h")).await;
    let inodes: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_ne!(inodes[0], inodes[1]);
    bench.stop().await;
}

#[tokio::test]
async fn tmp_and_dev_are_there() {
    let Some(mut bench) = Bench::start(|config| config.limits.tmp_bytes = 1 << 20).await else { return };
    let script = "echo x > /tmp/t; cat /tmp/t; echo lost > /dev/null; head -c 3 /dev/zero | cat -v; echo; \
                  head -c 1 /dev/urandom > /dev/null; (head -c 4000000 /dev/zero > /tmp/big) 2>/dev/null || echo full";
    let said = bench.says(&Order::script(&bench.shell(), script)).await;
    assert_eq!(said, "x\n^@^@^@\nfull\n");
    // A build that lives under /tmp: its files are there, and /tmp can be written to.
    let root = bench.shell().file("tmp/p/a.c", "source", false);
    let mut order =
        Order::script(&root, "cat a.c; echo x > /tmp/cc1.s; echo y > a.o; ls /tmp").outputs(&["a.o"]);
    order.cwd = "tmp/p".into();
    let result = bench.result(&order).await;
    assert_eq!(String::from_utf8_lossy(&result.stdout_raw), "sourcecc1.s\np\n");
    assert_eq!(bench.file(&result, "a.o"), b"y\n");
    bench.stop().await;
}

/// Clients that bring no file system see this machine's, and their own tree at a fixed place.
#[tokio::test]
async fn without_a_root_of_its_own_it_sees_the_machine_read_only() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let root = Root::new(&bench.blobs).file("a/in", "input", false).dir("work");
    let secret = bench.data_dir.join("store");
    let script = format!(
        "pwd; cat ../a/in; echo; echo new > ../a/new; echo out > out; ls {} 2>/dev/null | head -c 9; \
         (echo bad > /etc/dbuild-test-bad) 2>/dev/null || echo refused; [ -x /bin/sh ] && echo sees",
        secret.display()
    );
    let mut order = Order::script(&root, &script).outputs(&["out", "../a/new"]);
    order.root_is_root = false;
    let result = bench.result(&order).await;
    assert_eq!(String::from_utf8_lossy(&result.stdout_raw), "/tmp/exec-root/work\ninput\nrefused\nsees\n");
    assert_eq!(
        (bench.file(&result, "out"), bench.file(&result, "../a/new")),
        (b"out\n".to_vec(), b"new\n".to_vec())
    );
    bench.stop().await;

    let Some(mut bench) = Bench::start(|config| config.host_files = false).await else { return };
    order.put(&bench.blobs);
    Root::new(&bench.blobs).file("a/in", "input", false).dir("work").put();
    assert_eq!(bench.fault(&order).await.kind(), Kind::Infrastructure);
    bench.stop().await;
}

#[tokio::test]
async fn without_sandbox_root_uses_chroot_and_others_refuse() {
    let Some(mut bench) = Bench::start(|config| config.sandbox = SandboxChoice::None).await else { return };
    let root = bench.shell().file("etc/in", "input", false);
    let order =
        Order::script(&root, "cat /etc/in; echo x > /dev/null; echo out > out; sleep 98761.5 & exit 0")
            .outputs(&["out"]);
    if rustix::process::geteuid().is_root() {
        let result = bench.result(&order).await;
        assert_eq!(result.stdout_raw, b"input");
        assert_eq!(bench.file(&result, "out"), b"out\n");
        assert_eq!(crate::bench::processes_with("98761.5"), 0);
    } else {
        let fault = bench.fault(&order).await;
        assert_eq!(fault.kind(), Kind::Infrastructure);
        assert!(fault.message.contains("without sandbox"), "{}", fault.message);
    }
    let mut plain = Order::script(&Root::new(&bench.blobs).dir("work"), "echo out > out").outputs(&["out"]);
    plain.root_is_root = false;
    let result = bench.result(&plain).await;
    assert_eq!(bench.file(&result, "out"), b"out\n");
    bench.stop().await;
}
