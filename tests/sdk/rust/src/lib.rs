//! What the drivers of the Rust clients share.
use std::{collections::HashMap, env, future::Future, process, sync::Mutex, time::Duration};

use tokio::time::{Instant, sleep, timeout};

pub type Failure = Box<dyn std::error::Error + Send + Sync>;
pub type Outcome = Result<(), Failure>;

pub const GROUP: &str = "G";

/// What a listener was told, in order.
#[derive(Default)]
pub struct Heard(Mutex<Vec<String>>);

impl Heard {
    pub fn add(&self, content: &str) {
        self.0.lock().unwrap().push(content.to_owned());
    }

    pub fn has(&self, content: &str) -> bool {
        self.0.lock().unwrap().iter().any(|it| it == content)
    }

    pub fn last(&self) -> String {
        self.0.lock().unwrap().last().cloned().unwrap_or_default()
    }

    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

pub fn check(holds: bool, why: impl Into<String>) -> Outcome {
    if holds { Ok(()) } else { Err(why.into().into()) }
}

pub async fn until(what: &str, seconds: u64, condition: impl Fn() -> bool) -> Outcome {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !condition() {
        check(Instant::now() < end, format!("{what}: not within {seconds} s"))?;
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A write may be refused while there is no leader; nothing was written then.
pub async fn until_done<F: Future<Output = Outcome>>(publish: impl Fn() -> F) -> Outcome {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match publish().await {
            Ok(()) => return Ok(()),
            Err(err) if Instant::now() > end => return Err(err),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

pub async fn servers(command: &[&str]) -> Outcome {
    let status = tokio::process::Command::new(env::var("SERVERS")?).args(command).status().await?;
    check(status.success(), format!("servers {command:?}"))
}

/// The addresses of this machine, as a beta version is given them.
pub async fn mine() -> Result<String, Failure> {
    let printed = tokio::process::Command::new(env::var("SERVERS")?).arg("mine").output().await?;
    Ok(String::from_utf8(printed.stdout)?.trim().to_owned())
}

/// More than there is time for in a rolling restart.
pub const CHANGES: usize = 200;

/// What became of the changes during a rolling restart.
#[derive(Default)]
pub struct Rolled {
    /// The content of each key whose change was acknowledged.
    pub changed: HashMap<usize, String>,
    pub errors: Vec<String>,
    /// How long it lasted at the longest until a request was answered again.
    pub failing_max: Duration,
}

/// Changes and reads one key after the other while every node is restarted: `change` is given which one of `CHANGES` and its
/// content.
pub async fn rolling<F: Future<Output = Outcome>>(change: impl Fn(usize, String) -> F) -> Result<Rolled, Failure> {
    let restarts = servers(&["rolling"]);
    let mut restarts = std::pin::pin!(restarts);
    let mut rolled = Rolled::default();
    let mut failing_since = None;
    for at in 0.. {
        let (content, begin) = (format!("at {at}"), Instant::now());
        match change(at % CHANGES, content.clone()).await {
            Ok(()) => {
                rolled.changed.insert(at % CHANGES, content);
                failing_since = None;
            }
            Err(err) => {
                rolled.errors.push(format!("{content}: {err}"));
                let since = *failing_since.get_or_insert(begin);
                rolled.failing_max = rolled.failing_max.max(since.elapsed());
            }
        }
        if let Ok(restarted) = timeout(Duration::from_millis(50), &mut restarts).await {
            restarted?;
            break;
        }
    }
    Ok(rolled)
}

/// How many of `count` keys are published to when all of them are listened to.
pub const PUBLISHED: usize = 20;

/// Runs cases one after the other, and prints a line for each.
pub async fn run<F: Future<Output = Outcome>>(
    client: &str,
    cases: &[&'static str],
    case: impl Fn(&'static str) -> F,
) -> ! {
    let mode = env::var("CORACLE_MODE").unwrap_or_default();
    let only = env::var("SDK_CASE").unwrap_or_default();
    for name in cases.iter().filter(|name| name.contains(&only)) {
        let ran = timeout(Duration::from_secs(120), case(name)).await;
        match ran.unwrap_or_else(|_| Err("not within 120 s".into())) {
            Ok(()) => println!("ok   rust {client} {mode}: {name}"),
            Err(err) => println!("FAIL rust {client} {mode}: {name}: {err}"),
        }
    }
    process::exit(0);
}
