//! What the drivers of the Rust clients share.
use std::{env, future::Future, process, sync::Mutex, time::Duration};

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

/// Publishes again and again while every node is restarted, one after the other. No publish may fail.
pub async fn rolling<F: Future<Output = Outcome>>(publish: impl Fn(String) -> F) -> Outcome {
    let restarts = servers(&["rolling"]);
    let mut restarts = std::pin::pin!(restarts);
    let (mut at, mut errors) = (0, Vec::new());
    let restarted = loop {
        at += 1;
        if let Err(err) = publish(format!("at {at}")).await {
            errors.push(format!("at {at}: {err}"));
        }
        if let Ok(restarted) = timeout(Duration::from_millis(100), &mut restarts).await {
            break restarted;
        }
    };
    restarted?;
    check(errors.is_empty(), format!("{} of {at} publishes failed: {errors:?}", errors.len()))
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
    for name in cases {
        let ran = timeout(Duration::from_secs(120), case(name)).await;
        match ran.unwrap_or_else(|_| Err("not within 120 s".into())) {
            Ok(()) => println!("ok   rust {client} {mode}: {name}"),
            Err(err) => println!("FAIL rust {client} {mode}: {name}: {err}"),
        }
    }
    process::exit(0);
}
