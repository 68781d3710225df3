//! A server that plays the Hugging Face hub, as far as a client looks: the description of a repository, `resolve` with
//! its headers, large files behind a redirect, ranges. It can break connections, lie, and refuse.

use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// Files by revision; every revision has a commit of its own.
pub type Files = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
pub struct Repository {
    pub revisions: BTreeMap<String, Files>,
    /// Who may read it, if not all.
    pub token: Option<String>,
    /// It is another's old name.
    pub moved_to: Option<String>,
}

/// How a large file is served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Serve {
    Well,
    /// The connection ends after so many bytes of an answer, so many times.
    Cut {
        after: usize,
        times: usize,
    },
    /// Ranges that do not begin at 0 are ignored: the whole file comes again.
    IgnoringRanges,
    /// With an ETag that leaves the folder.
    UnderEtag(&'static str),
    /// With one byte changed.
    Damaged,
}

pub struct State {
    pub repositories: BTreeMap<String, Repository>,
    pub serve: Serve,
    /// `GET /path`, the range after it if there was one, and ` with TOKEN` if there was one.
    pub log: Vec<String>,
}

pub struct Hub {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub fn start() -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State { repositories: BTreeMap::new(), serve: Serve::Well, log: vec![] }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream, address, &state));
            }
        });
        Hub { address, state }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panicked with it")
    }

    /// Adds a repository whose `main` has these files.
    pub fn add(&self, name: &str, files: Files) {
        let revisions = [("main".to_owned(), files)].into();
        self.state().repositories.insert(name.to_owned(), Repository { revisions, ..Repository::default() });
    }

    pub fn serve(&self, how: Serve) {
        self.state().serve = how;
    }

    /// What was asked for since the last call.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }
}

/// What stands for git's hash of a revision: 40 digits.
pub fn commit(repository: &str, revision: &str) -> String {
    sha256(format!("{repository}@{revision}").as_bytes())[..40].to_owned()
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

struct Request {
    path: String,
    from: Option<usize>,
    to: Option<usize>,
    token: Option<String>,
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, from: None, to: None, token: None };
    for line in lines.take_while(|l| !l.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
                (request.from, request.to) = (from.parse().ok(), to.parse().ok());
            }
            "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    Some(request)
}

fn answer(mut stream: TcpStream, address: SocketAddr, state: &Mutex<State>) {
    let Some(request) = read_request(&stream) else { return };
    let mut state = state.lock().expect("no test panicked with it");
    let range = match (request.from, request.to) {
        (Some(from), Some(to)) => format!(" {from}-{to}"),
        (Some(from), None) => format!(" {from}-"),
        _ => String::new(),
    };
    let with = request.token.as_ref().map(|t| format!(" with {t}")).unwrap_or_default();
    state.log.push(format!("GET {}{range}{with}", request.path));
    let (head, body) = respond(&request, address, &mut state);
    drop(state);
    // A client that has gone away is its own affair.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

fn respond(request: &Request, address: SocketAddr, state: &mut State) -> (String, Vec<u8>) {
    let none = |code: &str| (format!("HTTP/1.1 404 Not Found\r\nX-Error-Code: {code}\r\n{END}"), vec![]);
    if let Some(etag) = request.path.strip_prefix("/cdn/") {
        let mut all = state.repositories.values().flat_map(|r| r.revisions.values()).flat_map(BTreeMap::values);
        let Some(bytes) = all.find(|b| sha256(b) == etag).cloned() else { return none("") };
        return send(request, bytes, "", &mut state.serve);
    }
    let (repository, revision, file) = match request.path.strip_prefix("/api/models/") {
        Some(rest) => match rest.split_once("/revision/") {
            Some((repository, revision)) => (repository, revision, None),
            None => return none(""),
        },
        None => {
            match request.path[1..].split_once("/resolve/").and_then(|(r, rest)| Some((r, rest.split_once('/')?))) {
                Some((repository, (revision, file))) => (repository, revision, Some(file)),
                None => return none(""),
            }
        }
    };
    let Some(found) = state.repositories.get(repository) else { return none("RepoNotFound") };
    if let Some(to) = &found.moved_to {
        let location = request.path.replacen(repository, to, 1);
        return (format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\n{END}"), vec![]);
    }
    let revision = revision.replace("%2F", "/");
    let named = found.revisions.iter().find(|(name, _)| **name == revision || commit(repository, name) == revision);
    let Some((name, files)) = named else { return none("RevisionNotFound") };
    let commit = commit(repository, name);
    let Some(file) = file else {
        let siblings: Vec<_> = files.keys().map(|f| json!({"rfilename": f})).collect();
        let body = json!({"id": repository, "sha": commit, "siblings": siblings}).to_string().into_bytes();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        return (head + "Connection: close\r\n\r\n", body);
    };
    if found.token.is_some() && found.token != request.token {
        let status = if request.token.is_some() { "403 Forbidden" } else { "401 Unauthorized" };
        return (format!("HTTP/1.1 {status}\r\nX-Error-Code: GatedRepo\r\n{END}"), vec![]);
    }
    let Some(bytes) = files.get(file).cloned() else { return none("EntryNotFound") };
    let etag = sha256(&bytes);
    if file.ends_with(".json") {
        let headers = format!("X-Repo-Commit: {commit}\r\nETag: \"{}\"\r\n", &etag[..40]);
        return send(request, bytes, &headers, &mut Serve::Well);
    }
    let linked = if let Serve::UnderEtag(etag) = state.serve { etag } else { &etag };
    let head = format!(
        "HTTP/1.1 302 Found\r\nX-Repo-Commit: {commit}\r\nX-Linked-Etag: \"{linked}\"\r\nX-Linked-Size: {}\r\n\
         Location: http://{address}/cdn/{etag}\r\n{END}",
        bytes.len()
    );
    (head, vec![])
}

const END: &str = "Content-Length: 0\r\nConnection: close\r\n\r\n";

fn send(request: &Request, mut bytes: Vec<u8>, headers: &str, serve: &mut Serve) -> (String, Vec<u8>) {
    let len = bytes.len();
    let mut from = request.from.unwrap_or(0);
    let to = request.to.map_or(len, |to| to + 1).min(len);
    if from >= len {
        return (format!("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{len}\r\n{END}"), vec![]);
    }
    if *serve == Serve::Damaged {
        bytes[len / 2] ^= 1;
    }
    if *serve == Serve::IgnoringRanges && request.to.is_none() {
        from = 0;
    }
    let mut body = bytes[from..to].to_vec();
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\n{headers}Content-Range: bytes {from}-{}/{len}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        to - 1,
        body.len()
    );
    if let Serve::Cut { after, times } = serve
        && *times > 0
        && body.len() > *after
    {
        *times -= 1;
        body.truncate(*after);
    }
    (head, body)
}
