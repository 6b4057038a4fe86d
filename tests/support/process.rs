//! Real `coracle` processes, and a blocking HTTP client that is nothing but a socket: what a test sends is what it says.
#![allow(dead_code, unreachable_pub)]

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{net::TcpSocket, time::Instant};

/// How long a busy machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A port that is free now, with its neighbours at −1000 and +1000 below the ephemeral range of most systems.
///
/// It is asked for without listening on it. A child that another test starts at this moment holds a copy of every
/// descriptor until it has become another program (12 ms were seen); a copy that listens would be in the way of the server
/// that is started on the port, one that is only bound, both with SO_REUSEADDR, is not.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let free = |port: u16| {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("SO_REUSEADDR can be set");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], port))).is_ok()
    };
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let spread = (std::process::id() % 997) as u16;
        let port = 12_000 + (spread * 17 + step * 13) % 9_000;
        if free(port) && free(port - 1000) && free(port + 1000) {
            return port;
        }
    }
}

/// A server process; killed with -9 when dropped.
pub struct Server {
    child: Child,
    pub port: u16,
    log: PathBuf,
}

impl Server {
    /// Starts the program and waits until it is ready.
    pub fn start(program: &str, data: &Path, port: u16, arguments: &[&str]) -> Self {
        let mut server = Self::spawn(program, data, port, arguments);
        server.wait_ready();
        server
    }

    pub fn spawn(program: &str, data: &Path, port: u16, arguments: &[&str]) -> Self {
        let path = data.with_extension("log");
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(&path).expect("a log file beside the data");
        let child = Command::new(program)
            .arg("server")
            .args(["--data", data.to_str().expect("a UTF-8 path"), "--port", &port.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("another handle of the log file"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        Self { child, port, log: path }
    }

    /// # Panics
    /// When the server has ended or takes too long, with what it wrote last.
    pub fn wait_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let why = loop {
            if let Ok(mut http) = Http::connect(self.port)
                && matches!(http.get("/readyz"), Ok((200, _)))
            {
                return;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                break format!("ended: {status}");
            }
            if Instant::now() > deadline {
                break format!("was not ready within {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(20).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        panic!("the server on port {} {why}; it wrote last:\n{}", self.port, last.join("\n"));
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process can be waited for");
    }

    /// SIGTERM; the exit code, and how long it took.
    pub fn terminate(&mut self) -> (Option<i32>, Duration) {
        let started = Instant::now();
        let status = Command::new("kill").arg(self.pid().to_string()).status().expect("kill runs");
        assert!(status.success(), "the signal was sent");
        let status = self.child.wait().expect("the process can be waited for");
        (status.code(), started.elapsed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed before.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a server said.
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| &**value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection.
pub struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Http {
    pub fn connect(port: u16) -> io::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub fn get(&mut self, target: &str) -> io::Result<(u16, Vec<u8>)> {
        self.exchange(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
    }

    pub fn post(&mut self, target: &str, headers: &str, body: &str) -> io::Result<(u16, Vec<u8>)> {
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-www-form-urlencoded\r\n{headers}\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.exchange(&[head.as_bytes(), body.as_bytes()].concat())
    }

    /// Publishes a content that needs no encoding.
    pub fn publish(&mut self, data_id: &str, content: &str) -> io::Result<(u16, Vec<u8>)> {
        self.post("/nacos/v1/cs/configs", "", &format!("dataId={data_id}&group=G&content={content}"))
    }

    /// The content, or `None` when there is none.
    pub fn query(&mut self, data_id: &str) -> io::Result<Option<String>> {
        let (status, body) = self.get(&format!("/nacos/v1/cs/configs?dataId={data_id}&group=G"))?;
        match status {
            200 => Ok(Some(String::from_utf8_lossy(&body).into_owned())),
            404 => Ok(None),
            other => Err(io::Error::other(format!("{other}: {}", String::from_utf8_lossy(&body)))),
        }
    }

    /// Sends these bytes and reads one answer that has a Content-Length.
    pub fn exchange(&mut self, request: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let answer = self.request(request)?;
        Ok((answer.status, answer.body))
    }

    /// The same, with the headers.
    pub fn request(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.send(request)?;
        self.answer(request.starts_with(b"HEAD "))
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one answer.
    pub fn answer(&mut self, without_body: bool) -> io::Result<Answer> {
        let end_of_head = loop {
            if let Some(at) = self.buffer.windows(4).position(|it| it == b"\r\n\r\n") {
                break at + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end_of_head]).into_owned();
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status in {head:?}")))?;
        let headers: Vec<(String, String)> = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.and_then(|(_, value)| value.parse().ok()).unwrap_or_default();
        let length = if without_body { 0 } else { length };
        while self.buffer.len() < end_of_head + length {
            self.fill()?;
        }
        let body = self.buffer[end_of_head..end_of_head + length].to_vec();
        self.buffer.drain(..end_of_head + length);
        Ok(Answer { status, headers, body })
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        let read = self.stream.read(&mut chunk)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&chunk[..read]);
        Ok(())
    }
}
