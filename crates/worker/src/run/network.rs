//! The networks of RUNs: which one a step is in, and those that are kept for the next step.

use std::error::Error as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandbox::{ConnectedNetwork, Network, NetworkError, PastaOptions};
use solver::{Event, ExecContext, NetworkMode, RunOp, SecurityMode};
use tokio::task::JoinHandle;

use crate::WorkerError;
use crate::local::unless_cancelled;

/// The network of the steps that ask for none in particular. It is in no cache key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultNetwork {
    /// This machine's.
    Host,
    /// A loopback device alone.
    None,
    /// One of its own that leads to the outside, and neither to this machine's loopback devices nor to other steps. It is
    /// made by pasta(1), one for as many steps as run at once; the first one is begun when it is known that a step will
    /// run. Steps with [`SecurityMode::Insecure`] could alter it, so that it serves no step after them.
    Isolated {
        /// The program; `None` if it is not installed.
        pasta: Option<PastaOptions>,
        /// What steps get where it cannot be had.
        otherwise: Otherwise,
    },
}

/// What becomes of steps that cannot have a network of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// They get this machine's network, of which one warning tells.
    Host,
    /// They fail.
    Fail,
}

type Beginning = JoinHandle<Result<ConnectedNetwork, NetworkError>>;

/// The networks of one build.
#[derive(Debug)]
pub(crate) struct Networks {
    default: DefaultNetwork,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Those in which no step is.
    idle: Vec<ConnectedNetwork>,
    /// Whether one was begun before a step asked for it.
    is_begun: bool,
    /// That one, until a step takes it.
    begun: Option<Beginning>,
    /// Why there are none. It is not tried twice: that could take the time of the deadline for each step.
    lack: Option<String>,
    is_told: bool,
    is_over: bool,
}

/// The network that a step is in.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) network: Network,
    /// Gives the network back; to be dropped where it may block, when no process is left in it.
    lease: Option<Lease>,
}

impl Place {
    /// Whether it has a loopback device of its own and leads to the outside all the same.
    pub(super) fn is_isolated(&self) -> bool {
        self.lease.is_some()
    }
}

#[derive(Debug)]
struct Lease {
    networks: Arc<Networks>,
    network: Option<ConnectedNetwork>,
    is_reusable: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(network) = self.network.take().filter(|_| self.is_reusable) {
            self.networks.keep(network);
        }
    }
}

impl Networks {
    pub(crate) fn new(default: DefaultNetwork) -> Self {
        Self { default, state: Mutex::default() }
    }

    /// Begins the first network if `op` will need one.
    pub(crate) fn expect(&self, op: &RunOp) {
        if let (NetworkMode::Default, DefaultNetwork::Isolated { pasta: Some(pasta), .. }) =
            (op.network, &self.default)
        {
            let mut state = self.state();
            if !state.is_begun {
                state.is_begun = true;
                state.begun = Some(begin(pasta));
            }
        }
    }

    /// The network for a step.
    pub(super) async fn take(
        self: &Arc<Self>,
        op: &RunOp,
        context: &ExecContext,
    ) -> Result<Place, WorkerError> {
        let without_lease = |network| Ok(Place { network, lease: None });
        let (pasta, otherwise) = match (op.network, &self.default) {
            (NetworkMode::Host, _) | (NetworkMode::Default, DefaultNetwork::Host) => {
                return without_lease(Network::Host);
            }
            (NetworkMode::None, _) | (NetworkMode::Default, DefaultNetwork::None) => {
                return without_lease(Network::None);
            }
            (NetworkMode::Default, DefaultNetwork::Isolated { pasta, otherwise }) => {
                (pasta.as_ref(), otherwise)
            }
        };
        match (self.connected(pasta, context).await?, otherwise) {
            (Ok(network), _) => Ok(Place {
                network: Network::Namespace(network.namespace().clone()),
                lease: Some(Lease {
                    networks: Arc::clone(self),
                    network: Some(network),
                    is_reusable: op.security != SecurityMode::Insecure,
                }),
            }),
            (Err(lack), Otherwise::Fail) => Err(WorkerError::NoNetwork(lack)),
            (Err(lack), Otherwise::Host) => {
                let is_told = std::mem::replace(&mut self.state().is_told, true);
                if !is_told {
                    let message = format!("the network of this machine is shared: {lack}");
                    (context.events)(Event::Warning { vertex: context.vertex, message });
                }
                without_lease(Network::Host)
            }
        }
    }

    /// A network in which nobody is, or why there is none.
    async fn connected(
        &self,
        pasta: Option<&PastaOptions>,
        context: &ExecContext,
    ) -> Result<Result<ConnectedNetwork, String>, WorkerError> {
        let Some(pasta) = pasta else {
            return Ok(Err("`pasta` is not installed (package `passt`)".to_owned()));
        };
        let beginning = {
            let mut state = self.state();
            // Those whose pasta has died are of no use.
            while let Some(network) = state.idle.pop() {
                if network.is_connected() {
                    return Ok(Ok(network));
                }
            }
            if let Some(lack) = &state.lack {
                return Ok(Err(lack.clone()));
            }
            state.is_begun = true;
            state.begun.take().unwrap_or_else(|| begin(pasta))
        };
        let begun = unless_cancelled(context, async { Ok(beginning.await) }).await?;
        match begun {
            Ok(Ok(network)) => Ok(Ok(network)),
            Ok(Err(error)) => {
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                let lack = format!("{error}{cause}");
                self.state().lack = Some(lack.clone());
                Ok(Err(lack))
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down, and the build with it.
                Err(_) => Err(WorkerError::Cancelled),
            },
        }
    }

    fn keep(&self, network: ConnectedNetwork) {
        let mut state = self.state();
        if !state.is_over {
            state.idle.push(network);
        }
    }

    /// Ends all networks in which nobody is, and those that are given back later.
    pub(crate) fn end(&self) {
        let idle = {
            let mut state = self.state();
            state.is_over = true;
            // One that is not ready yet ends when it is.
            state.begun = None;
            std::mem::take(&mut state.idle)
        };
        if idle.is_empty() {
            return;
        }
        for network in &idle {
            network.kill();
        }
        // Nobody needs to wait for that; without a thread it takes a moment longer.
        let _ = std::thread::Builder::new().spawn(move || drop(idle));
    }

    /// The state; a thread that panicked leaves it whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn begin(pasta: &PastaOptions) -> Beginning {
    let pasta = pasta.clone();
    tokio::task::spawn_blocking(move || ConnectedNetwork::start(&pasta))
}
