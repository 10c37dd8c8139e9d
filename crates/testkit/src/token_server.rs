//! A token service for `docker-registry` (distribution's "Token Authentication Specification").

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::authority::{self, Authority, Certificate};
use crate::basic;

/// A service on a thread of its own that gives tokens for everything to one user, and to nobody else.
#[derive(Debug)]
pub struct TokenServer {
    address: String,
    root: PathBuf,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    authorization: String,
    signer: Certificate,
    /// How many of the next tokens are too old from the start.
    stale: AtomicUsize,
    asked: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl TokenServer {
    /// Starts the service; the authority's own key signs.
    ///
    /// # Panics
    /// When the machine has no free port or thread.
    pub fn start(authority: &Authority, username: &str, password: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("the listener is bound").to_string();
        let state = Arc::new(State {
            authorization: basic(username, password),
            signer: authority.root(),
            stale: AtomicUsize::new(0),
            asked: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.is_over.load(Ordering::Relaxed) {
                    return;
                }
                // A client that goes away is no reason to end.
                let _ = serve(&stream, &shared);
            }
        });
        Self { address, root: authority.root().certificate, state, thread: Some(thread) }
    }

    /// Makes the next `count` tokens too old from the start.
    pub fn give_stale_tokens(&self, count: usize) {
        self.state.stale.store(count, Ordering::Relaxed);
    }

    /// The queries so far.
    pub fn asked(&self) -> Vec<String> {
        self.state.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `auth` of docker-registry's configuration.
    pub(crate) fn configuration(&self) -> String {
        format!(
            "auth: {{token: {{realm: \"http://{}/token\", service: test, issuer: test, rootcertbundle: \"{}\"}}}}",
            self.address,
            self.root.display()
        )
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        // The thread waits for a connection.
        drop(TcpStream::connect(&self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: &TcpStream, state: &State) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut is_known = false;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or_default();
        is_known |= name.eq_ignore_ascii_case("authorization") && value == state.authorization;
    }
    let query = request.split(' ').nth(1).and_then(|path| path.split_once('?')).unwrap_or_default().1;
    state.asked.lock().unwrap_or_else(PoisonError::into_inner).push(query.to_owned());
    let (status, body) = if is_known {
        ("200 OK", format!(r#"{{"token":"{}","expires_in":300}}"#, token(state, query)))
    } else {
        ("401 Unauthorized", r#"{"details":"incorrect username or password"}"#.to_owned())
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn token(state: &State, query: &str) -> String {
    let is_stale =
        state.stale.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_ok();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    let ends = if is_stale { now - 3600 } else { now + 300 };
    let scopes = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
    let access: Vec<String> = scopes
        .map(|scope| {
            let scope = scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
            let (rest, actions) = scope.rsplit_once(':').unwrap_or_default();
            let (kind, name) = rest.split_once(':').unwrap_or_default();
            let actions = actions.replace(',', "\",\"");
            format!(r#"{{"type":"{kind}","name":"{name}","actions":["{actions}"]}}"#)
        })
        .collect();
    let chain = authority::base64_of(&state.signer.certificate);
    let header = format!(r#"{{"typ":"JWT","alg":"RS256","x5c":["{chain}"]}}"#);
    let claims = format!(
        r#"{{"iss":"test","sub":"me","aud":"test","exp":{ends},"nbf":{},"iat":{now},"jti":"1","access":[{}]}}"#,
        now - 7200,
        access.join(",")
    );
    let signed = format!("{}.{}", url_safe(header.as_bytes()), url_safe(claims.as_bytes()));
    let signature = authority::sign(&state.signer.key, signed.as_bytes());
    format!("{signed}.{}", url_safe(&signature))
}

/// Base64 for URLs, without padding.
fn url_safe(bytes: &[u8]) -> String {
    crate::base64(bytes).trim_end_matches('=').replace('+', "-").replace('/', "_")
}
