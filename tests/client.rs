//! The client against servers that answer what a script says: which server is asked, with which headers, and what the caller
//! is told in the end.
#![allow(clippy::unwrap_used)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use coracle::client::{Client, Error};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};

/// Longer than the client waits for any answer but that of a poll.
const TOO_LONG: Duration = Duration::from_secs(11);
/// What a server says when a compare-and-set did not hold.
const CONFLICT: &str = "caused: Cas publish fail, server md5 may have changed.;";

/// What a server does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    /// Status, revision, body.
    Answer(u16, Option<u64>, &'static str),
    /// Closes the connection.
    Cut,
    /// Says nothing, and keeps the connection.
    Hang,
}

use Reply::{Answer, Cut, Hang};

/// What a server has been asked: whole requests, in lower case.
#[derive(Default)]
struct Asked {
    requests: Mutex<Vec<String>>,
    arrived: Notify,
}

impl Asked {
    fn reads(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|it| it.starts_with("get ")).cloned().collect()
    }

    /// What each request says under this name, `None` where it does not.
    fn headers(requests: &[String], name: &str) -> Vec<Option<String>> {
        let header = |request: &String| {
            request.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
        };
        requests.iter().map(header).collect()
    }
}

/// A server that does what the script says, until the test ends; its address.
async fn serve(script: impl FnMut(&str) -> Reply + Send + 'static) -> (String, Arc<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (asked, script) = (Arc::new(Asked::default()), Arc::new(Mutex::new(script)));
    let shared = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (asked, script) = (shared.clone(), script.clone());
            tokio::spawn(async move {
                while let Some(request) = read_request(&mut socket).await {
                    let reply = (*script.lock().unwrap())(&request);
                    asked.requests.lock().unwrap().push(request);
                    asked.arrived.notify_one();
                    match reply {
                        Answer(status, revision, body) => {
                            let answer = answer(status, revision, body);
                            socket.write_all(answer.as_bytes()).await.unwrap();
                        }
                        Cut => return,
                        Hang => std::future::pending::<()>().await,
                    }
                }
            });
        }
    });
    (address, asked)
}

fn answer(status: u16, revision: Option<u64>, body: &str) -> String {
    let revision = revision.map(|it| format!("Coracle-Revision: {it}\r\n")).unwrap_or_default();
    format!("HTTP/1.1 {status} Scripted\r\n{revision}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// The next request on a connection; `None` when there is no more.
async fn read_request(socket: &mut TcpStream) -> Option<String> {
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |it| it.parse::<usize>().unwrap()) {
                return Some(text);
            }
        }
        if socket.read_buf(&mut bytes).await.unwrap_or_default() == 0 {
            return None;
        }
    }
}

/// One reply after the other; the last one for ever.
fn in_turn(mut replies: Vec<Reply>) -> impl FnMut(&str) -> Reply + Send + 'static {
    move |_: &str| if replies.len() > 1 { replies.remove(0) } else { replies[0] }
}

/// As [`in_turn`] for reads; polls are told at once that something changed as long as there is another reply.
fn reads_in_turn(mut replies: Vec<Reply>) -> impl FnMut(&str) -> Reply + Send + 'static {
    replies.reverse();
    move |request: &str| match request.starts_with("get ") {
        true => replies.pop().unwrap_or(Hang),
        false if replies.is_empty() => Hang,
        false => Answer(200, None, "a%02G%01\n"),
    }
}

fn client(servers: &[&str]) -> Client {
    servers.iter().fold(Client::builder().group("G"), |builder, it| builder.server(*it)).build().unwrap()
}

#[tokio::test]
async fn a_watch_that_comes_to_a_server_that_lags_waits_for_it() {
    let (first, _) = serve(in_turn(vec![Answer(200, Some(7), "new"), Cut])).await;
    // It holds an older content, and gives it to whoever does not ask for a newer one.
    let mut waited = vec![Answer(200, Some(8), "newer"), Answer(503, Some(3), "caused: behind;")];
    let (second, lags) = serve(move |request: &str| match request.starts_with("get ") {
        true if request.contains("coracle-min-revision: 7\r\n") => waited.pop().unwrap_or(Hang),
        true => Answer(200, Some(3), "old"),
        false => Answer(200, Some(3), "a%02G%01\n"),
    })
    .await;
    let mut watch = client(&[&first, &second]).watch("a");
    assert_eq!(watch.next().await.unwrap().as_deref(), Some("new"));
    assert_eq!(watch.next().await.unwrap().as_deref(), Some("newer"), "and nothing older before it");
    let floors = Asked::headers(&lags.reads(), "coracle-min-revision");
    assert_eq!(floors, [Some("7".to_owned()), Some("7".to_owned())], "it was asked again, not passed over for good");
}

/// Reads that are answered so, the contents that a watch gives out of them, and the revisions that it asks for.
async fn check_watch(replies: &[Reply], given_out: &[Option<&str>], floors: &[Option<u64>]) {
    let (server, asked) = serve(reads_in_turn(replies.to_vec())).await;
    let mut watch = client(&[&server]).watch("a");
    for content in given_out {
        assert_eq!(watch.next().await.unwrap().as_deref(), *content, "{replies:?}");
    }
    let floors: Vec<_> = floors.iter().map(|it| it.map(|it| it.to_string())).collect();
    assert_eq!(Asked::headers(&asked.reads(), "coracle-min-revision"), floors, "{replies:?}");
}

#[tokio::test]
async fn what_is_older_than_what_was_given_out_is_not_given_out() {
    let (new, newer) = (Answer(200, Some(7), "new"), Answer(200, Some(9), "newer"));
    let both = [Some("new"), Some("newer")];
    // The floor is what was asked for, whatever a server or a proxy makes of it.
    check_watch(&[new, Answer(200, Some(6), "old"), newer], &both, &[None, Some(7), Some(7)]).await;
    check_watch(&[new, Answer(404, Some(6), ""), newer], &both, &[None, Some(7), Some(7)]).await;
    check_watch(&[new, Answer(404, None, "nobody is here"), newer], &both, &[None, Some(7), Some(7)]).await;
    // A content that was read again is known to be that of the later state.
    check_watch(&[new, Answer(200, Some(8), "new"), newer], &both, &[None, Some(7), Some(8)]).await;
    check_watch(&[new, Answer(404, Some(7), ""), newer], &[both[0], None, both[1]], &[None, Some(7), Some(7)]).await;
    // Where no server names a revision, none is asked for.
    check_watch(&[Answer(200, None, "1"), Answer(200, None, "2")], &[Some("1"), Some("2")], &[None, None]).await;
}

#[tokio::test]
async fn a_read_goes_on_to_a_server_that_answers_and_stays_there() {
    for failure in [Cut, Answer(503, Some(1), "caused: loading;"), Answer(500, Some(1), "caused: failed;")] {
        let (bad, failed) = serve(in_turn(vec![failure])).await;
        let (good, _) = serve(in_turn(vec![Answer(200, Some(1), "1")])).await;
        let client = client(&[&bad, &good]);
        for _ in 0..3 {
            assert_eq!(client.get("a").await, Ok(Some("1".into())), "{failure:?}");
        }
        assert_eq!(failed.reads().len(), 1, "{failure:?}");
        // A write begins with the server that answers, too.
        client.publish("a", "1").await.unwrap();
        assert_eq!(failed.requests.lock().unwrap().len(), 1, "{failure:?}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_costs_one_read_its_patience() {
    // Time stands still but where this test advances it: the runtime does not while a blocking task runs.
    let (_until_the_end, ended) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || ended.recv());
    tokio::time::pause();
    let (hung, asked) = serve(in_turn(vec![Hang])).await;
    let (good, _) = serve(in_turn(vec![Answer(200, Some(1), "1")])).await;
    let client = client(&[&hung, &good]);
    let reader = client.clone();
    let read = tokio::spawn(async move { reader.get("a").await });
    asked.arrived.notified().await;
    tokio::time::advance(TOO_LONG).await;
    assert_eq!(read.await.unwrap(), Ok(Some("1".into())));
    assert_eq!(client.get("a").await, Ok(Some("1".into())));
    assert_eq!(asked.reads().len(), 1, "the next one begins with the server that answered");
}

#[tokio::test]
async fn a_read_that_no_server_answers_says_why() {
    let unavailable: Result<Option<String>, Error> = Err(Error::Unavailable("caused: loading;".into()));
    for (first, second) in [
        (Answer(503, Some(1), "caused: loading;"), Cut),
        (Cut, Answer(503, Some(1), "caused: loading;")),
        (Answer(503, Some(1), "caused: no leader;"), Answer(503, Some(1), "caused: loading;")),
    ] {
        let (one, _) = serve(in_turn(vec![first])).await;
        let (two, _) = serve(in_turn(vec![second])).await;
        assert_eq!(client(&[&one, &two]).get("a").await, unavailable, "{first:?}, {second:?}");
    }
    let (one, _) = serve(in_turn(vec![Cut])).await;
    let lost = client(&[&one, &one]).get("a").await;
    assert!(matches!(lost, Err(Error::Unreachable(_))), "{lost:?}");
}

/// A publish whose copies are answered so ends so, and all copies have one id.
async fn check_write(replies: &'static [Reply], copies: usize, expected: &'static str) {
    let (server, asked) = serve(in_turn(replies.to_vec())).await;
    let outcome = client(&[&server]).publish("a", "1").await;
    let word = match &outcome {
        Ok(()) => "done",
        Err(Error::NotFound) => "not found",
        Err(Error::Conflict) => "conflict",
        Err(Error::Invalid(_)) => "invalid",
        Err(Error::Unavailable(_)) => "unavailable",
        Err(Error::OutcomeUnknown(_)) => "unknown",
        Err(Error::Unreachable(_)) => "unreachable",
        Err(Error::Unexpected(_)) => "unexpected",
    };
    assert_eq!(word, expected, "{replies:?}: {outcome:?}");
    let mut ids = Asked::headers(&asked.requests.lock().unwrap(), "x-request-id");
    assert_eq!(ids.len(), copies, "{replies:?}");
    ids.dedup();
    assert!(matches!(&ids[..], [Some(_)]), "{replies:?}: {ids:?}");
}

#[tokio::test]
async fn an_unknown_outcome_stays_unknown_until_an_answer_settles_it() {
    const UNKNOWN: Reply = Answer(504, Some(1), "caused: the outcome is unknown;");
    const FAILED: Reply = Answer(500, Some(1), "caused: this node has failed;");
    const INVALID: Reply = Answer(400, Some(1), "caused: invalid content, over 10;");
    const NOWHERE: Reply = Answer(404, None, "nobody is here");
    const REFUSED: Reply = Answer(500, Some(1), CONFLICT);
    /// Of a server that does not know ids.
    const REFUSED_BY_NACOS: Reply = Answer(500, None, CONFLICT);
    const NOT_NOW: Reply = Answer(503, Some(1), "caused: no leader;");
    const DONE: Reply = Answer(200, Some(1), "true");
    const CASES: &[(&[Reply], usize, &str)] = &[
        (&[UNKNOWN, FAILED], 4, "unknown"),
        (&[UNKNOWN, INVALID], 4, "unknown"),
        (&[UNKNOWN, NOWHERE], 4, "unknown"),
        (&[UNKNOWN, NOT_NOW], 4, "unknown"),
        (&[UNKNOWN, REFUSED_BY_NACOS], 4, "unknown"),
        (&[Cut, FAILED], 4, "unknown"),
        (&[NOT_NOW, UNKNOWN, INVALID], 4, "unknown"),
        (&[UNKNOWN, DONE], 2, "done"),
        (&[Cut, INVALID, FAILED, DONE], 4, "done"),
        (&[UNKNOWN, REFUSED], 2, "conflict"),
        (&[Cut, FAILED, REFUSED], 3, "conflict"),
        // As long as nothing was written, whatever is said counts.
        (&[REFUSED_BY_NACOS], 1, "conflict"),
        (&[NOT_NOW, REFUSED_BY_NACOS], 2, "conflict"),
        (&[NOT_NOW, INVALID], 2, "invalid"),
        (&[NOT_NOW, FAILED], 2, "unexpected"),
        (&[NOT_NOW], 4, "unavailable"),
        (&[NOT_NOW, DONE], 2, "done"),
    ];
    // Beside each other: the client waits between its copies.
    let mut checks = JoinSet::new();
    for (replies, copies, expected) in CASES {
        checks.spawn(check_write(replies, *copies, expected));
    }
    while let Some(check) = checks.join_next().await {
        check.unwrap();
    }
}
