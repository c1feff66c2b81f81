//! See README.md.

mod faults;
mod files;

use std::collections::HashSet;
use std::convert::Infallible;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, sleep_until};

use faults::Faults;
use files::Files;

type Answer = Response<BoxBody<Bytes, std::io::Error>>;

struct Server {
    s3: S3Service,
    faults: PathBuf,
    requests: AtomicU64,
    bytes: AtomicU64,
    /// The objects of which a wrong byte was sent.
    spoiled: Mutex<HashSet<String>>,
    /// When the link has passed all that was sent.
    free: Mutex<Option<Instant>>,
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(root), Some(faults)) = (arguments.next(), arguments.next()) else {
        panic!("usage: pbkfs-s3 ROOT FAULTS");
    };
    let mut builder = S3ServiceBuilder::new(Files { root });
    builder.set_auth(SimpleAuth::from_single("test", "secret"));
    let server = Arc::new(Server {
        s3: builder.build(),
        faults,
        requests: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        spoiled: Mutex::default(),
        free: Mutex::new(None),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    std::io::stdout().flush().unwrap();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            continue;
        };
        if Faults::read(&server.faults).down {
            continue;
        }
        socket.set_nodelay(true).unwrap();
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(&server, request));
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

async fn answer(server: &Server, request: Request<Incoming>) -> Result<Answer, std::io::Error> {
    let path = request.uri().path().to_owned();
    match &*path {
        "/.stats" => {
            let (requests, bytes) = (&server.requests, &server.bytes);
            let text = format!(
                "{} {}\n",
                requests.load(Ordering::Relaxed),
                bytes.load(Ordering::Relaxed)
            );
            return Ok(Response::new(full(text.into())));
        }
        "/.forget" => {
            server.requests.store(0, Ordering::Relaxed);
            server.bytes.store(0, Ordering::Relaxed);
            return Ok(Response::new(full(Bytes::new())));
        }
        _ => {}
    }
    let faults = Faults::read(&server.faults);
    let number = server.requests.fetch_add(1, Ordering::Relaxed) + 1;
    if faults.down {
        return Err(std::io::ErrorKind::ConnectionReset.into());
    }
    if faults.hits("hang", number, &path).is_some() {
        std::future::pending::<()>().await;
    }
    if faults.latency > 0 {
        sleep(Duration::from_millis(faults.latency)).await;
    }
    if faults.redirect {
        let mut answer = Response::new(full(Bytes::new()));
        *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        let there = request.uri().to_string().parse().unwrap();
        answer.headers_mut().insert("location", there);
        return Ok(answer);
    }
    if let Some(status) = faults.hits("status", number, &path) {
        let text = "<Error><Code>Fault</Code></Error>";
        let mut answer = Response::new(full(text.into()));
        *answer.status_mut() = StatusCode::from_u16(status as u16).unwrap();
        return Ok(answer);
    }
    let answered = server.s3.call(request.map(s3s::Body::from)).await;
    let answered = answered.map_err(|e| std::io::Error::other(format!("{e:?}")))?;
    let (mut head, body) = answered.into_parts();
    let body = body
        .collect()
        .await
        .map_err(|e| std::io::Error::other(e.to_string()))?;
    let mut body = body.to_bytes();
    server.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
    if let Some(rate) = Some(faults.rate).filter(|rate| *rate > 0) {
        pass(server, body.len(), rate).await;
    }
    if faults.hits("etag", number, &path).is_some() && head.headers.contains_key("etag") {
        head.headers.insert("etag", "\"another\"".parse().unwrap());
    }
    let is_content = head.status == StatusCode::PARTIAL_CONTENT;
    if is_content
        && faults.hits("wrong", number, &path).is_some()
        && server.spoiled.lock().unwrap().insert(path.clone())
    {
        let mut wrong = body.to_vec();
        let middle = wrong.len() / 2;
        wrong[middle] ^= 1;
        body = wrong.into();
    }
    if is_content && faults.hits("short", number, &path).is_some() {
        body.truncate(body.len() / 2);
        head.headers.insert("content-length", body.len().into());
    }
    if is_content && faults.hits("cut", number, &path).is_some() {
        let half = body.slice(..body.len() / 2);
        let cut = Err(std::io::ErrorKind::ConnectionReset.into());
        let body = StreamBody::new(stream::iter([Ok(Frame::data(half)), cut]));
        return Ok(Response::from_parts(head, BodyExt::boxed(body)));
    }
    Ok(Response::from_parts(head, full(body)))
}

/// Waits until a link of that many bytes per second has passed so many more.
async fn pass(server: &Server, bytes: usize, rate: u64) {
    let time = Duration::from_secs_f64(bytes as f64 / rate as f64);
    let until = {
        let mut free = server.free.lock().unwrap();
        let until = free.map_or(Instant::now(), |free| free.max(Instant::now())) + time;
        *free = Some(until);
        until
    };
    sleep_until(until).await;
}

fn full(bytes: Bytes) -> BoxBody<Bytes, std::io::Error> {
    let never = |never: Infallible| match never {};
    Full::new(bytes).map_err(never).boxed()
}
