//! Drives the Rust client `nacos-sdk`: one line for each case.
use std::{
    env, process,
    sync::{Arc, Mutex},
    time::Duration,
};

use md5::{Digest, Md5};
use nacos_sdk::api::{
    config::{ConfigChangeListener, ConfigResponse, ConfigService, ConfigServiceBuilder},
    props::ClientProps,
};
use tokio::time::{Instant, sleep, timeout};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome = Result<(), Failure>;

const GROUP: &str = "G";

/// What a listener was told, in order.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn has(&self, content: &str) -> bool {
        self.0.lock().unwrap().iter().any(|it| it == content)
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl ConfigChangeListener for Heard {
    fn notify(&self, response: ConfigResponse) {
        self.0.lock().unwrap().push(response.content().clone());
    }
}

struct Driver {
    run: String,
    addresses: String,
    client: ConfigService,
}

fn check(holds: bool, why: impl Into<String>) -> Outcome {
    if holds { Ok(()) } else { Err(why.into().into()) }
}

async fn client(addresses: &str, namespace: &str) -> Result<ConfigService, Failure> {
    let props = ClientProps::new().server_addr(addresses).namespace(namespace).app_name("driver");
    Ok(ConfigServiceBuilder::new(props).build().await?)
}

async fn publish(client: &ConfigService, key: &str, content: &str) -> Outcome {
    let done = client.publish_config(key.into(), GROUP.into(), content.into(), Some("text".into())).await?;
    check(done, format!("publish {content:?}: refused"))
}

/// A write may be refused while there is no leader; nothing was written then.
async fn publish_until_done(client: &ConfigService, key: &str, content: &str) -> Outcome {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match publish(client, key, content).await {
            Ok(()) => return Ok(()),
            Err(err) if Instant::now() > end => return Err(err),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn get(client: &ConfigService, key: &str) -> Result<String, Failure> {
    Ok(client.get_config(key.into(), GROUP.into()).await?.content().clone())
}

async fn listen(client: &ConfigService, key: &str) -> Result<Arc<Heard>, Failure> {
    let heard = Arc::<Heard>::default();
    client.add_listener(key.into(), GROUP.into(), heard.clone()).await?;
    Ok(heard)
}

async fn until(what: &str, seconds: u64, condition: impl Fn() -> bool) -> Outcome {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !condition() {
        check(Instant::now() < end, format!("{what}: not within {seconds} s"))?;
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn servers(command: &str) -> Outcome {
    let status = tokio::process::Command::new(env::var("SERVERS")?).arg(command).status().await?;
    check(status.success(), format!("servers {command}"))
}

impl Driver {
    fn key(&self, name: &str) -> String {
        format!("{}-{name}", self.run)
    }

    async fn exact_bytes(&self) -> Outcome {
        for (at, content) in ["配置: 值 🎉", "a\r\nb\r\n", "tail  \n\n", "\ttab = 1 & 2 % + ?"].iter().enumerate()
        {
            let key = self.key(&format!("bytes{at}"));
            publish(&self.client, &key, content).await?;
            let got = get(&self.client, &key).await?;
            check(got == *content, format!("{got:?} instead of {content:?}"))?;
        }
        Ok(())
    }

    async fn one_mebibyte(&self) -> Outcome {
        let content = "x配\n".repeat((1 << 20) / 5);
        publish(&self.client, &self.key("large"), &content).await?;
        check(get(&self.client, &self.key("large")).await? == content, "another content")
    }

    async fn cas(&self) -> Outcome {
        let key = self.key("cas");
        publish(&self.client, &key, "one").await?;
        let right: String = Md5::digest("one").iter().map(|byte| format!("{byte:02x}")).collect();
        let swap = async |content: &str| {
            let done = self.client.publish_config_cas(key.clone(), GROUP.into(), content.into(), None, right.clone());
            matches!(done.await, Ok(true))
        };
        check(swap("two").await, "refused with the right md5")?;
        check(!swap("three").await, "taken with a wrong md5")?;
        check(get(&self.client, &key).await? == "two", "changed all the same")
    }

    async fn remove(&self) -> Outcome {
        let key = self.key("gone");
        publish(&self.client, &key, "x").await?;
        check(self.client.remove_config(key.clone(), GROUP.into()).await?, "not removed")?;
        check(get(&self.client, &key).await.is_err(), "still there")
    }

    async fn namespaces(&self) -> Outcome {
        let other = client(&self.addresses, &format!("ns-{}", self.run)).await?;
        let key = self.key("ns");
        publish(&other, &key, "in the namespace").await?;
        check(get(&other, &key).await? == "in the namespace", "not found in its namespace")?;
        check(get(&self.client, &key).await.is_err(), "seen in another namespace")
    }

    async fn listening(&self) -> Outcome {
        let key = self.key("listen");
        publish(&self.client, &key, "zero").await?;
        let heard = listen(&self.client, &key).await?;
        sleep(Duration::from_secs(1)).await;
        for content in ["one", "two"] {
            publish(&self.client, &key, content).await?;
            until(&format!("the change to {content}"), 10, || heard.has(content)).await?;
        }
        let count = heard.count();
        publish(&self.client, &key, "two").await?;
        sleep(Duration::from_millis(1_500)).await;
        check(heard.count() == count, "told of the same content")
    }

    async fn many(&self) -> Outcome {
        let mut heard = Vec::new();
        for at in 0..100 {
            let key = self.key(&format!("many-{at}"));
            // This client does not listen to a key that is not there yet.
            publish(&self.client, &key, "before").await?;
            heard.push((listen(&self.client, &key).await?, key));
        }
        sleep(Duration::from_secs(2)).await;
        for (_, key) in heard.iter().step_by(5) {
            publish(&self.client, key, "told").await?;
        }
        until("all of 20", 30, || heard.iter().step_by(5).all(|(heard, _)| heard.has("told"))).await
    }

    async fn two_nodes(&self) -> Outcome {
        let mut nodes = self.addresses.split(',');
        let (Some(first), Some(second)) = (nodes.next(), nodes.next()) else { return Err("one node".into()) };
        let (a, b) = (client(first, "").await?, client(second, "").await?);
        let key = self.key("nodes");
        publish(&a, &key, "before").await?;
        let heard = listen(&b, &key).await?;
        sleep(Duration::from_secs(1)).await;
        for at in 0..20 {
            let content = format!("at {at}");
            publish(&a, &key, &content).await?;
            let got = get(&a, &key).await?;
            check(got == content, format!("read {got:?} after {content:?}"))?;
            until(&format!("{content} at the other node"), 5, || heard.has(&content)).await?;
        }
        Ok(())
    }

    /// This client lists its keys again every 60 s after it has found another server.
    async fn failover(&self, command: &str) -> Outcome {
        let client = client(&self.addresses, "").await?;
        let key = self.key(command);
        publish(&client, &key, "before").await?;
        let heard = listen(&client, &key).await?;
        sleep(Duration::from_secs(1)).await;
        servers(command).await?;
        publish_until_done(&client, &key, "after").await?;
        until("the change after it", 75, || heard.has("after")).await
    }

    async fn case(&self, name: &str) -> Outcome {
        match name {
            "exact bytes" => self.exact_bytes().await,
            "1 MiB" => self.one_mebibyte().await,
            "cas" => self.cas().await,
            "remove" => self.remove().await,
            "namespaces" => self.namespaces().await,
            "listen: first, second, same content" => self.listening().await,
            "100 listeners" => self.many().await,
            "two nodes" => self.two_nodes().await,
            "leader killed" => self.failover("kill-leader").await,
            "server restarted" => self.failover("restart").await,
            _ => Err("there is no such case".into()),
        }
    }
}

#[tokio::main]
async fn main() -> Outcome {
    let version = env::args().nth(1).ok_or("say which version this is")?;
    let (mode, addresses) = (env::var("CORACLE_MODE")?, env::var("CORACLE_SERVERS")?);
    let run = format!("{:08x}", rand::random::<u32>());
    let driver = Driver { run, client: client(&addresses, "").await?, addresses };
    let mut cases = vec![
        "exact bytes",
        "1 MiB",
        "cas",
        "remove",
        "namespaces",
        "listen: first, second, same content",
        "100 listeners",
    ];
    cases.extend(if mode == "three" { &["two nodes", "leader killed"][..] } else { &["server restarted"] });
    for name in cases {
        let ran = timeout(Duration::from_secs(120), driver.case(name)).await;
        match ran.unwrap_or_else(|_| Err("not within 120 s".into())) {
            Ok(()) => println!("ok   rust nacos-sdk {version} {mode}: {name}"),
            Err(err) => println!("FAIL rust nacos-sdk {version} {mode}: {name}: {err}"),
        }
    }
    process::exit(0);
}
