//! Network namespaces that outlive single sandboxes, and their connection to the outside by pasta(1).

use std::fs::File;
use std::io::{self, Read, Seek};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::process::Init;
use crate::{frame_filter, kernel};

/// The network inside: addresses that no real network has (RFC 7335 keeps them for translators such as this, and the
/// other prefix is one of RFC 4193), so that every address of the host and its networks is outside.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
const NETMASK_BITS: &str = "29";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd5c, 0x7262, 0x7569, 0x6c64, 0, 0, 0, 2);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The device that leads to the outside, by the name that it has in Docker's containers.
const DEVICE: &str = "eth0";

/// Why there is no network of its own, or why nothing connects it.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The namespace could not be made.
    #[error("cannot make a network namespace")]
    Namespace(#[source] io::Error),
    /// What is for the machine itself could not be kept inside.
    #[error("cannot keep loopback addresses out of what pasta forwards")]
    Filter(#[source] io::Error),
    /// The program could not be started.
    #[error("cannot run `{}`", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program ended before the network was ready.
    #[error("`{}` failed{}", program.display(), if said.is_empty() { String::new() } else { format!(": {said}") })]
    Ended {
        /// The program.
        program: PathBuf,
        /// The last line that it wrote; may be empty.
        said: String,
    },
    /// The network was not ready in time.
    #[error("`{}` was not ready after {} ms", program.display(), deadline.as_millis())]
    Late {
        /// The program.
        program: PathBuf,
        /// The time that it had.
        deadline: Duration,
    },
}

/// A network namespace in which the loopback device is up. It lasts as long as this, its clones and the processes in it.
#[derive(Debug, Clone)]
pub struct NetworkNamespace(Arc<OwnedFd>);

impl NetworkNamespace {
    /// Makes one, of the current user namespace.
    pub fn new() -> io::Result<Self> {
        // A thread of its own, as whichever makes a namespace is in it from then on.
        let thread = std::thread::Builder::new().spawn(|| {
            kernel::unshare_network()?;
            kernel::bring_up_loopback()?;
            File::open("/proc/thread-self/ns/net")
        })?;
        match thread.join() {
            Ok(namespace) => Ok(Self(Arc::new(namespace?.into()))),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PartialEq for NetworkNamespace {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for NetworkNamespace {}

/// How pasta(1) is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastaOptions {
    /// The program.
    pub program: PathBuf,
    /// How long its start may take.
    pub start_deadline: Duration,
    /// What leads in.
    pub ports: Vec<PortForward>,
}

/// A port of the machine that leads to one of a network: connections that come there are made anew inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// What is forwarded.
    pub transport: Transport,
    /// The address of the machine; all of them for `None`.
    pub address: Option<IpAddr>,
    /// The first port of the machine.
    pub outer: u16,
    /// The port inside that it leads to.
    pub inner: u16,
    /// How many ports that follow each other are forwarded so; at least one.
    pub count: u16,
}

/// What runs over ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl PortForward {
    /// As pasta(1) has it: `[ADDRESS/]FIRST-LAST:FIRST-LAST`.
    fn argument(&self) -> String {
        let address = self.address.map(|address| format!("{address}/")).unwrap_or_default();
        let range = |first: u16| match self.count {
            0 | 1 => first.to_string(),
            count => format!("{first}-{}", u32::from(first) + u32::from(count) - 1),
        };
        format!("{address}{}:{}", range(self.outer), range(self.inner))
    }
}

/// A flag of a process that ends (`linux/sched.h`).
const PF_EXITING: u64 = 0x4;

/// A network namespace from which a process of pasta leads to the outside: connections that begin inside are made anew
/// by pasta, outside. Nothing leads in but the ports that were asked for, and nothing leads to the loopback devices of the outside but for
/// [`NAMESERVER`](Self::NAMESERVER).
///
/// When this is dropped, or the calling process ends in whatever way, pasta is killed; sandboxes in the namespace go on
/// without a connection.
#[derive(Debug)]
pub struct ConnectedNetwork {
    namespace: NetworkNamespace,
    pidfd: OwnedFd,
    /// The reading end of its standard output.
    stdout: OwnedFd,
}

impl ConnectedNetwork {
    /// Where the first name server (IPv4) of the outer `/etc/resolv.conf` answers inside, even one on a loopback device.
    /// Some versions of pasta hand on UDP only.
    pub const NAMESERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 3);
    /// The same for the first name server with an IPv6 address.
    pub const NAMESERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd5c, 0x7262, 0x7569, 0x6c64, 0, 0, 0, 3);

    /// Makes a namespace and starts pasta for it. Blocks until the network is ready, some 50 ms, or the deadline is
    /// over. There is no connection by IPv4 or IPv6 where the outside has no default route for it, and an error where
    /// it has none at all.
    pub fn start(options: &PastaOptions) -> Result<Self, NetworkError> {
        let program = &options.program;
        let failed = |source| NetworkError::Start { program: program.clone(), source };
        let namespace = NetworkNamespace::new().map_err(NetworkError::Namespace)?;
        let (stdout, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let log = memfd_create("pasta", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let network = Self::launch(options, namespace, (stdout, &tell, &log)).map_err(failed)?;
        drop(tell);
        let timeout = Timespec::try_from(options.start_deadline).ok();
        let told = loop {
            match poll(&mut [PollFd::new(&network.stdout, PollFlags::IN)], timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result.map_err(|error| failed(error.into()))? > 0,
            }
        };
        if !told {
            return Err(NetworkError::Late { program: program.clone(), deadline: options.start_deadline });
        }
        // The number of the process; nothing if it has ended.
        let mut number = [0; 32];
        if rustix::io::read(&network.stdout, &mut number).map_err(|error| failed(error.into()))? > 0 {
            frame_filter::install(DEVICE, network.pidfd.as_fd()).map_err(NetworkError::Filter)?;
            return Ok(network);
        }
        network.end();
        Err(NetworkError::Ended { program: program.clone(), said: last_line(log.into()) })
    }

    /// Starts pasta, with where it tells that it is ready and where it writes what goes wrong. As standard streams: root
    /// without capabilities, as which it opens them, may not look at those of other processes, and newer versions close
    /// all others of their own.
    fn launch(
        options: &PastaOptions,
        namespace: NetworkNamespace,
        (stdout, tell, log): (OwnedFd, &OwnedFd, &OwnedFd),
    ) -> io::Result<Self> {
        let program = options.program.as_path();
        let mut all = vec![program.display().to_string()];
        all.extend(arguments(&options.ports));
        let pidfd = Init::execute([namespace.as_fd(), tell.as_fd(), log.as_fd()], program, all)?;
        Ok(Self { namespace, pidfd, stdout })
    }

    /// The namespace.
    pub fn namespace(&self) -> &NetworkNamespace {
        &self.namespace
    }

    /// Whether pasta is still running.
    pub fn is_connected(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ends = [PollFd::new(&self.pidfd, PollFlags::IN), PollFd::new(&self.stdout, PollFlags::empty())];
        matches!(poll(&mut { ends }, Some(&now)), Ok(0)) && !self.is_ending()
    }

    /// Whether pasta is on the way to its end: it gives up its device some time before it has ended. False where `/proc`
    /// does not tell.
    fn is_ending(&self) -> bool {
        // See pidfd_open(2) and proc_pid_stat(5): what follows the name is the state and, seventh, the flags.
        let flags = || -> Option<u64> {
            let information = format!("/proc/self/fdinfo/{}", self.pidfd.as_raw_fd());
            let information = std::fs::read_to_string(information).ok()?;
            let pid = information.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim();
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(')')?.1.split_whitespace().nth(6)?.parse().ok()
        };
        flags().is_some_and(|flags| flags & PF_EXITING != 0)
    }

    /// Kills pasta. Does not wait, which dropping this does: its end takes the kernel some 20 ms.
    pub fn kill(&self) {
        // The only error is that it has ended.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    fn end(&self) {
        self.kill();
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

impl Drop for ConnectedNetwork {
    fn drop(&mut self) {
        self.end();
    }
}

/// See pasta(1).
fn arguments(ports: &[PortForward]) -> Vec<String> {
    let fixed = [
        "--foreground",
        "--quiet",
        "--config-net",
        // Root would become `nobody` otherwise, who may not enter the namespace.
        "--netns-only",
        "--runas",
        "0",
        "--netns",
        "/proc/self/fd/0",
        "--no-netns-quit",
        // Written when the network is ready.
        "--pid",
        "/proc/self/fd/1",
        // Without these, ports that anybody listens on are forwarded both ways, also those of loopback devices, and the
        // gateway's address leads to the outer loopback device.
        "--tcp-ns",
        "none",
        "--udp-ns",
        "none",
        "--no-map-gw",
        "--ns-ifname",
        DEVICE,
        "--netmask",
        NETMASK_BITS,
    ];
    let addresses = [
        ("--address", ADDRESS.to_string()),
        ("--gateway", GATEWAY.to_string()),
        ("--dns-forward", ConnectedNetwork::NAMESERVER.to_string()),
        ("--address", ADDRESS_V6.to_string()),
        ("--gateway", GATEWAY_V6.to_string()),
        ("--dns-forward", ConnectedNetwork::NAMESERVER_V6.to_string()),
    ];
    let addresses = addresses.into_iter().flat_map(|(option, address)| [option.to_owned(), address]);
    fixed.into_iter().map(str::to_owned).chain(addresses).chain(forwards(ports)).collect()
}

/// The options for ports: those that were asked for, or none at all.
fn forwards(ports: &[PortForward]) -> Vec<String> {
    let mut options = Vec::new();
    for (transport, option) in [(Transport::Tcp, "--tcp-ports"), (Transport::Udp, "--udp-ports")] {
        let arguments = ports.iter().filter(|port| port.transport == transport).map(PortForward::argument);
        let mut arguments: Vec<String> = arguments.collect();
        if arguments.is_empty() {
            arguments.push("none".to_owned());
        }
        options.extend(arguments.into_iter().flat_map(|argument| [option.to_owned(), argument]));
    }
    options
}

/// The last line of what pasta wrote that is about the network.
fn last_line(mut log: File) -> String {
    let mut text = Vec::new();
    // Where it cannot be read the reason is not told.
    let _ = log.rewind().and_then(|()| log.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("to syslog"));
    lines.next_back().unwrap_or_default().to_owned()
}
