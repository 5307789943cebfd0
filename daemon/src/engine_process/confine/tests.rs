//! Actions that a confined thread or process may or may not do, checked on the kernel that runs the
//! tests.

use std::backtrace::Backtrace;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread;
use std::time::Instant;

use kith_pictures::decode::DecodeLimits;
use kith_vision::{Device, Pack, Precision};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::{EngineSettings, Recogniser};
use super::*;

/// Environment variable set in the process that a test starts from its own program.
const INSIDE: &str = "KITHD_TEST_CONFINED";

/// Runs work on its own thread: Landlock and the filter bind a thread and its children, so the
/// other tests stay free.
fn on_a_thread_of_its_own<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().unwrap())
}

fn confined_for_the_cpu() -> Confinement {
    let confinement = confine(&Profile::Cpu);
    println!("{confinement}");
    confinement
        .calls
        .as_ref()
        .expect("every machine that runs the tests has seccomp");
    confinement
}

fn landlock_abi(confinement: &Confinement) -> Option<ABI> {
    match &confinement.landlock {
        Ok((abi, _)) => Some(*abi),
        Err(why) => {
            println!("NOT RUN: files by Landlock: {why}");
            None
        }
    }
}

#[track_caller]
fn refused<T>(result: std::io::Result<T>) {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}"),
    }
}

#[test]
fn a_confined_engine_opens_no_file_or_socket_runs_no_program() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let unix = folder.path().join("other");
    let _listening = UnixListener::bind(&unix).unwrap();
    let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&bystander);
    on_a_thread_of_its_own(|| {
        confined_for_the_cpu();
        refused(File::open("/etc/passwd"));
        refused(File::open("/proc/self/maps"));
        refused(File::create(folder.path().join("new")));
        refused(std::fs::metadata("/etc/passwd"));
        refused(std::fs::read_dir("/"));
        refused(std::fs::remove_file(&unix));
        refused(TcpStream::connect(address));
        refused(TcpListener::bind("127.0.0.1:0"));
        refused(UdpSocket::bind("127.0.0.1:0"));
        refused(UnixStream::connect(&unix));
        refused(UnixListener::bind(folder.path().join("mine")));
        refused(Command::new("/bin/true").status());
        refused(
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).map_err(Into::into),
        );
        refused(rustix::process::test_kill_process(pid).map_err(Into::into));
    });
    assert!(
        bystander.try_wait().unwrap().is_none(),
        "another process was ended"
    );
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

/// The test needs a kernel with Landlock.
#[test]
fn landlock_alone_refuses_files_tcp_and_signals() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&bystander);
    on_a_thread_of_its_own(|| match enforced(&restrict_files(&Profile::Cpu).unwrap()) {
        Ok((abi, _)) => {
            println!("Landlock ABI {abi}");
            refused(File::open("/etc/passwd"));
            refused(std::fs::read_dir("/"));
            refused(File::create(std::env::temp_dir().join("kithd-confined")));
            refused(Command::new("/bin/true").status());
            if abi >= ABI::V4 {
                refused(TcpStream::connect(address));
                refused(TcpListener::bind("127.0.0.1:0"));
            } else {
                println!("NOT RUN: TCP by Landlock: ABI {abi} does not know it");
            }
            if abi >= ABI::V6 {
                refused(
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL)
                        .map_err(Into::into),
                );
            } else {
                println!("NOT RUN: signals by Landlock: ABI {abi} does not know them");
            }
        }
        Err(why) => println!("NOT RUN: {why}"),
    });
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn a_confined_engine_keeps_its_socket_threads_memory_and_clock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("engine");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    on_a_thread_of_its_own(|| {
        let cores = thread::available_parallelism().unwrap();
        confined_for_the_cpu();

        let (mut served, _) = listener.accept().unwrap();
        client.write_all(b"ask").unwrap();
        let mut asked = [0; 3];
        served.read_exact(&mut asked).unwrap();
        served
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        served.write_all(&asked).unwrap();
        client.read_exact(&mut asked).unwrap();
        assert_eq!(&asked, b"ask");

        // More threads than cores, each with its own arena, with small and large allocations.
        let threads: Vec<_> = (0..32_usize)
            .map(|thread| {
                let work = move || {
                    let pieces: Vec<Vec<u8>> =
                        (0..200).map(|piece| vec![1; 64 << (piece % 16)]).collect();
                    thread::yield_now();
                    let mut large = vec![0_u8; 8 << 20];
                    large.resize(48 << 20, 1);
                    pieces.iter().map(Vec::len).sum::<usize>() + large.len() + thread
                };
                thread::Builder::new()
                    .name(format!("worker {thread}"))
                    .spawn(work)
                    .unwrap()
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| assert!(thread.join().unwrap() > 48 << 20));

        let begun = Instant::now();
        thread::sleep(Duration::from_millis(20));
        assert!(begun.elapsed() >= Duration::from_millis(20));
        assert!(std::time::SystemTime::now() > std::time::UNIX_EPOCH);
        assert!(thread::available_parallelism().unwrap() >= cores);
        assert_eq!(uuid::Uuid::now_v7().get_version_num(), 7);

        let panic =
            thread::spawn(|| panic!("a picture's fault: {}", Backtrace::force_capture())).join();
        assert!(
            panic
                .unwrap_err()
                .downcast::<String>()
                .unwrap()
                .starts_with("a picture's fault")
        );
    });
}

#[test]
fn a_runtime_started_after_confining_serves_and_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("engine");
    let listener = UnixListener::bind(&path).unwrap();
    let (confined, client_may_start) = std::sync::mpsc::channel();
    let client = thread::spawn(move || {
        client_may_start.recv().unwrap();
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(b"picture").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    on_a_thread_of_its_own(|| {
        confined_for_the_cpu();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            let mut stopped =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::user_defined2())
                    .unwrap();
            confined.send(()).unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.peer_cred().is_ok());
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.unwrap();
            let length = tokio::task::spawn_blocking(move || bytes.len())
                .await
                .unwrap();
            let panic = tokio::task::spawn_blocking(|| panic!("a picture's fault")).await;
            assert!(panic.unwrap_err().is_panic());
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert!(
                tokio::time::timeout(Duration::from_millis(5), stopped.recv())
                    .await
                    .is_err()
            );
            stream
                .write_all(format!("{length} bytes").as_bytes())
                .await
                .unwrap();
        });
    });
    assert_eq!(client.join().unwrap(), "7 bytes");
}

#[test]
fn networks_loaded_before_recognise_after() {
    let pack =
        Pack::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/packs/dlib-mtcnn"))
            .unwrap();
    let picture = pack.self_test_picture().unwrap().into_owned();
    let settings = EngineSettings {
        limits: DecodeLimits {
            max_bytes: 32 << 20,
            max_pixels: 40_000_000,
        },
        min_face_px: None,
        max_faces: 16,
        turned: true,
        threads: 2,
    };
    let before = Recogniser::load(&pack, Precision::Int8, Device::Cpu, &settings)
        .unwrap()
        .recognise(&picture)
        .unwrap();
    on_a_thread_of_its_own(|| {
        let recogniser = Recogniser::load(&pack, Precision::Int8, Device::Cpu, &settings).unwrap();
        confined_for_the_cpu();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let after = recogniser.recognise(&picture).unwrap();
                    assert_eq!(after.faces.len(), before.faces.len());
                    assert_eq!(after.faces[0].embedding, before.faces[0].embedding);
                    assert_eq!(after.thumbnail, before.thumbnail);
                });
            }
        });
        // Uses both cores, since the other picture is finished.
        assert_eq!(
            recogniser.recognise(&picture).unwrap().faces[0].embedding,
            before.faces[0].embedding
        );
    });
}

#[test]
fn a_confined_cuda_engine_keeps_only_its_libraries_and_cache() {
    if std::env::var_os(INSIDE).is_none() {
        // The filter binds every thread, so this needs its own process.
        let name = thread::current().name().unwrap().to_owned();
        let mut inside = Command::new(std::env::current_exe().unwrap());
        let output = inside
            .args(["--exact", &name, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        println!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        return;
    }
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let driver = thread::spawn(move || {
        wait.recv().unwrap();
        refused(Command::new("/bin/true").status());
        refused(TcpStream::connect(address));
    });

    let confinement = confine(&Profile::Cuda {
        cache: cache.clone(),
    });
    println!("{confinement}");
    go.send(()).unwrap();
    driver.join().unwrap();
    refused(Command::new("/bin/true").status());
    refused(TcpStream::connect(address));
    refused(UdpSocket::bind("127.0.0.1:0"));
    refused(rustix::process::test_kill_process(rustix::process::Pid::INIT).map_err(Into::into));
    if landlock_abi(&confinement).is_some() {
        refused(File::open("/etc/passwd"));
        refused(File::create(folder.path().join("beside")));
        refused(File::create("/usr/lib/kithd-confined"));
    }
    std::fs::write(cache.join("kernel.new"), "code").unwrap();
    std::fs::rename(cache.join("kernel.new"), cache.join("kernel")).unwrap();
    assert_eq!(std::fs::read(cache.join("kernel")).unwrap(), b"code");
    std::fs::remove_file(cache.join("kernel")).unwrap();
    std::fs::read_to_string("/proc/cpuinfo").unwrap();
    std::fs::read_dir("/sys").unwrap();
    std::fs::read(std::fs::canonicalize("/etc/ld.so.cache").unwrap()).unwrap();
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    UnixStream::pair().unwrap();
    assert_eq!(
        thread::spawn(|| vec![1_u8; 1 << 20].len()).join().unwrap(),
        1 << 20
    );
}

#[test]
fn the_words_say_what_was_reached() {
    let words = |profile: Profile,
                 landlock: Result<ABI, &str>,
                 calls: Result<usize, &str>,
                 earlier_threads| {
        Confinement {
            profile,
            privileges: Ok(()),
            landlock: landlock.map(|abi| (abi, false)).map_err(str::to_owned),
            calls: calls.map_err(str::to_owned),
            earlier_threads,
        }
        .to_string()
    };
    let cuda = || Profile::Cuda {
        cache: "/var/cache/kithd".into(),
    };
    assert_eq!(
        words(Profile::Cpu, Ok(ABI::V3), Ok(61), 0),
        "files: none (Landlock ABI 3); system calls: 61 allowed"
    );
    assert_eq!(
        words(Profile::Cpu, Ok(ABI::V7), Err("no filter for arm"), 1),
        "files: none, TCP: none (Landlock ABI 7); system calls: not restricted (no filter for arm); \
         1 threads started before: not restricted"
    );
    assert_eq!(
        words(Profile::Cpu, Err("this kernel has no Landlock"), Ok(61), 0),
        "files: none to open, by the system-call filter alone (this kernel has no Landlock); system calls: 61 allowed"
    );
    assert_eq!(
        words(cuda(), Ok(ABI::V6), Ok(70), 4),
        "files: the driver's, /var/cache/kithd writable, TCP: none (Landlock ABI 6); system calls: 70 refused; \
         4 threads started before: files not restricted"
    );
    assert_eq!(
        words(cuda(), Err("this kernel has no Landlock"), Ok(70), 0),
        "files: not restricted (this kernel has no Landlock); system calls: 70 refused"
    );
}
