//! HTTP that is nothing but a socket: whether a request can have reached the server decides what its failure means.
use std::{fmt, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A server in reach answers a connection at once, however busy it is: the kernel does it.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// What a server said.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| &**value)
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.header(name).and_then(|it| it.parse().ok())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// No answer.
#[derive(Debug)]
pub enum Lost {
    /// The server cannot have seen the request.
    NotSent(String),
    /// It may have.
    Unknown(String),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(why) => write!(f, "not sent: {why}"),
            Self::Unknown(why) => write!(f, "no answer: {why}"),
        }
    }
}

/// A client of one server, with at most one connection.
pub struct Http {
    address: SocketAddr,
    patience: Duration,
    open: Option<(TcpStream, Vec<u8>)>,
}

impl Http {
    pub fn new(address: SocketAddr, patience: Duration) -> Self {
        Self { address, patience, open: None }
    }

    pub async fn get(&mut self, target: &str) -> Result<Answer, Lost> {
        self.request("GET", target, "", "").await
    }

    /// Sends one request and waits for its answer. The connection is kept only if both were whole.
    pub async fn request(&mut self, method: &str, target: &str, headers: &str, body: &str) -> Result<Answer, Lost> {
        let (mut stream, mut buffer) = match self.open.take() {
            Some(open) => open,
            None => (connect(self.address).await?, Vec::new()),
        };
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n{headers}\r\n{body}",
            self.address,
            body.len()
        );
        let exchange = async {
            stream.write_all(request.as_bytes()).await.map_err(|err| err.to_string())?;
            read(&mut stream, &mut buffer).await
        };
        let answer = match timeout(self.patience, exchange).await {
            Ok(answer) => answer.map_err(Lost::Unknown)?,
            Err(_) => return Err(Lost::Unknown(format!("nothing within {:?}", self.patience))),
        };
        self.open = Some((stream, buffer));
        Ok(answer)
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Lost> {
    match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            stream.set_nodelay(true).map_err(|err| Lost::NotSent(err.to_string()))?;
            Ok(stream)
        }
        Ok(Err(err)) => Err(Lost::NotSent(err.to_string())),
        Err(_) => Err(Lost::NotSent("no connection in time".into())),
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Answer, String> {
    let end_of_head = loop {
        if let Some(at) = buffer.windows(4).position(|it| it == b"\r\n\r\n") {
            break at + 4;
        }
        fill(stream, buffer).await?;
    };
    let head = String::from_utf8_lossy(&buffer[..end_of_head]).into_owned();
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    let status = status.ok_or_else(|| format!("no status in {head:?}"))?;
    let headers: Vec<(String, String)> = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, it)| it.parse().ok());
    let end = end_of_head + length.unwrap_or(0usize);
    while buffer.len() < end {
        fill(stream, buffer).await?;
    }
    let body = buffer[end_of_head..end].to_vec();
    buffer.drain(..end);
    Ok(Answer { status, headers, body })
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<(), String> {
    match stream.read_buf(buffer).await {
        Ok(0) => Err("the connection was closed".into()),
        Ok(_) => Ok(()),
        Err(err) => Err(err.to_string()),
    }
}
