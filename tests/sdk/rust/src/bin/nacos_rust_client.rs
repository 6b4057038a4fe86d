//! Drives the Rust client `nacos_rust_client`, of the author of r-nacos: one line for each case. It has no compare-and-set and
//! no labels, and lists its keys without an md5 when it has found another server.
use std::{env, sync::Arc, time::Duration};

use nacos_rust_client::client::{
    ClientBuilder,
    config_client::{ConfigClient, ConfigKey, listener::ConfigListener},
};
use sdk_driver::{CHANGES, GROUP, Heard, Outcome, PUBLISHED, Rolled, check, rolling, run, servers, until, until_done};
use tokio::time::sleep;

/// What this client says its address is.
const IP: &str = "10.1.2.3";

/// It waits for a second before it goes to another server, and fails every request meanwhile, in itself; it chooses by chance,
/// and may have to wait once more or twice.
const FAILING_MAX: Duration = Duration::from_millis(3_500);

struct Listener(ConfigKey, Arc<Heard>);

impl ConfigListener for Listener {
    fn get_key(&self) -> ConfigKey {
        self.0.clone()
    }

    fn change(&self, _key: &ConfigKey, content: &str) {
        self.1.add(content);
    }
}

struct Driver {
    run: String,
    addresses: String,
    client: Arc<ConfigClient>,
}

async fn client(addresses: &str) -> Arc<ConfigClient> {
    let builder = ClientBuilder::new().set_endpoint_addrs(addresses).set_tenant(String::new());
    let client = builder.set_client_ip(IP.to_owned()).set_app_name("driver".to_owned()).build_config_client();
    // It takes requests only once it has been registered.
    sleep(Duration::from_secs(1)).await;
    client
}

async fn publish(client: &ConfigClient, key: &ConfigKey, content: &str) -> Outcome {
    client.set_config(key, content).await.map_err(|err| format!("publish {content:?}: {err}").into())
}

async fn listen(client: &ConfigClient, key: &ConfigKey) -> Result<Arc<Heard>, sdk_driver::Failure> {
    let heard = Arc::<Heard>::default();
    client.subscribe(Box::new(Listener(key.clone(), heard.clone()))).await?;
    Ok(heard)
}

impl Driver {
    fn key(&self, name: &str) -> ConfigKey {
        ConfigKey::new(&format!("{}-{name}", self.run), GROUP, "")
    }

    async fn is_there(&self, key: &ConfigKey, content: &str) -> Outcome {
        let got = self.client.get_config(key).await?;
        check(got == content, format!("{got:?} instead of {content:?}"))
    }

    async fn exact_bytes(&self) -> Outcome {
        for (at, content) in ["配置: 值 🎉", "a\r\nb\r\n", "tail  \n\n", "\ttab = 1 & 2 % + ?"].iter().enumerate()
        {
            let key = self.key(&format!("bytes{at}"));
            publish(&self.client, &key, content).await?;
            self.is_there(&key, content).await?;
        }
        Ok(())
    }

    async fn one_mebibyte(&self) -> Outcome {
        let content = "x配\n".repeat((1 << 20) / 5);
        publish(&self.client, &self.key("large"), &content).await?;
        check(self.client.get_config(&self.key("large")).await? == content, "another content")
    }

    async fn remove(&self) -> Outcome {
        let key = self.key("gone");
        publish(&self.client, &key, "x").await?;
        self.client.del_config(&key).await?;
        check(self.client.get_config(&key).await.is_err(), "still there")
    }

    async fn namespaces(&self) -> Outcome {
        let (here, mut there) = (self.key("ns"), self.key("ns"));
        there.tenant = format!("ns-{}", self.run);
        publish(&self.client, &there, "in the namespace").await?;
        self.is_there(&there, "in the namespace").await?;
        check(self.client.get_config(&here).await.is_err(), "seen in another namespace")?;
        let heard = listen(&self.client, &there).await?;
        sleep(Duration::from_secs(1)).await;
        publish(&self.client, &there, "changed").await?;
        until("the change in a namespace", 10, || heard.has("changed")).await
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

    async fn delete_and_create(&self) -> Outcome {
        let key = self.key("again");
        publish(&self.client, &key, "zero").await?;
        let heard = listen(&self.client, &key).await?;
        sleep(Duration::from_secs(1)).await;
        self.client.del_config(&key).await?;
        // It asks for the content of what was removed, and says nothing of not finding it.
        sleep(Duration::from_millis(500)).await;
        publish(&self.client, &key, "back").await?;
        until("the creation after a removal", 10, || heard.has("back")).await
    }

    async fn many(&self, count: usize) -> Outcome {
        let mut heard = Vec::new();
        for at in 0..count {
            let key = self.key(&format!("many{count}-{at}"));
            heard.push((listen(&self.client, &key).await?, key));
        }
        sleep(Duration::from_secs(2)).await;
        for (_, key) in heard.iter().step_by(count / PUBLISHED) {
            publish(&self.client, key, "told").await?;
        }
        until("all of 20", 30, || heard.iter().step_by(count / PUBLISHED).all(|(it, _)| it.has("told"))).await
    }

    async fn beta(&self) -> Outcome {
        let key = self.key("beta");
        publish(&self.client, &key, "formal").await?;
        let heard = listen(&self.client, &key).await?;
        sleep(Duration::from_secs(1)).await;
        servers(&["beta", GROUP, &key.data_id, IP, "gray"]).await?;
        until("the gray version", 10, || heard.has("gray")).await?;
        self.is_there(&key, "gray").await?;
        servers(&["stop-beta", GROUP, &key.data_id]).await?;
        until("the formal version again", 10, || heard.last() == "formal").await?;
        servers(&["beta", GROUP, &key.data_id, "10.9.9.9", "for another"]).await?;
        sleep(Duration::from_millis(1_500)).await;
        check(heard.last() == "formal", "told of what is for another")?;
        self.is_there(&key, "formal").await
    }

    async fn two_nodes(&self) -> Outcome {
        let mut nodes = self.addresses.split(',');
        let (Some(first), Some(second)) = (nodes.next(), nodes.next()) else { return Err("one node".into()) };
        let (a, b) = (client(first).await, client(second).await);
        let key = self.key("nodes");
        publish(&a, &key, "before").await?;
        let heard = listen(&b, &key).await?;
        sleep(Duration::from_secs(1)).await;
        for at in 0..20 {
            let content = format!("at {at}");
            publish(&a, &key, &content).await?;
            let got = a.get_config(&key).await?;
            check(got == content, format!("read {got:?} after {content:?}"))?;
            until(&format!("{content} at the other node"), 5, || heard.has(&content)).await?;
        }
        Ok(())
    }

    /// With the only client of the process: the node that it is connected to is killed.
    async fn leader_killed(&self) -> Outcome {
        let key = self.key("leader");
        publish(&self.client, &key, "before").await?;
        let heard = listen(&self.client, &key).await?;
        sleep(Duration::from_secs(1)).await;
        servers(&["kill-leader"]).await?;
        // By another client, at another node: this one has to find its way by itself.
        servers(&["publish", GROUP, &key.data_id, "after"]).await?;
        until("the change after it", 5, || heard.has("after")).await?;
        sleep(Duration::from_secs(5)).await;
        servers(&["settle"]).await
    }

    async fn restarted(&self) -> Outcome {
        let client = client(&self.addresses).await;
        let key = self.key("restart");
        publish(&client, &key, "before").await?;
        let heard = listen(&client, &key).await?;
        sleep(Duration::from_secs(1)).await;
        servers(&["restart"]).await?;
        until_done(|| publish(&client, &key, "after")).await?;
        until("the change after it", 10, || heard.has("after")).await
    }

    /// Each key changes once: a change that is lost stays lost.
    async fn restarts(&self) -> Outcome {
        let (listening, asking) = (client(&self.addresses).await, client(&self.addresses).await);
        let keys: Vec<ConfigKey> = (0..CHANGES).map(|at| self.key(&format!("rolling{at}"))).collect();
        let mut heard = Vec::new();
        for key in &keys {
            heard.push(listen(&listening, key).await?);
        }
        sleep(Duration::from_secs(1)).await;
        let Rolled { changed, errors, failing_max } = rolling(async |at: usize, content: String| {
            publish(&asking, &keys[at], &content).await?;
            let got = asking.get_config(&keys[at]).await?;
            check(got == content, format!("read {got:?}"))
        })
        .await?;
        until("the changes", 10, || changed.iter().all(|(at, content)| heard[*at].has(content))).await?;
        let why = format!("requests failed for {failing_max:?}, {} beside {}: {errors:?}", errors.len(), changed.len());
        check(failing_max < FAILING_MAX, why)
    }

    async fn case(&self, name: &str) -> Outcome {
        match name {
            "exact bytes" => self.exact_bytes().await,
            "1 MiB" => self.one_mebibyte().await,
            "remove" => self.remove().await,
            "namespaces" => self.namespaces().await,
            "listen: first, second, same content" => self.listening().await,
            "listen: delete and create" => self.delete_and_create().await,
            "100 listeners" => self.many(100).await,
            "3000 listeners" => self.many(3_000).await,
            "beta" => self.beta().await,
            "two nodes" => self.two_nodes().await,
            "leader killed" => self.leader_killed().await,
            "rolling restart" => self.restarts().await,
            "server restarted" => self.restarted().await,
            _ => Err("there is no such case".into()),
        }
    }
}

#[tokio::main]
async fn main() -> Outcome {
    let version = env::args().nth(1).ok_or("say which version this is")?;
    let addresses = env::var("CORACLE_SERVERS")?;
    let run_id = format!("{:08x}", rand::random::<u32>());
    let driver = Driver { run: run_id, client: client(&addresses).await, addresses };
    let three = env::var("CORACLE_MODE")? == "three";
    // First: the process has one client yet.
    let mut cases = if three { vec!["leader killed"] } else { vec![] };
    cases.extend([
        "exact bytes",
        "1 MiB",
        "remove",
        "namespaces",
        "listen: first, second, same content",
        "listen: delete and create",
        "100 listeners",
        "3000 listeners",
        "beta",
    ]);
    if three {
        cases.extend(["two nodes", "rolling restart"]);
    }
    cases.push("server restarted");
    run(&format!("nacos_rust_client {version}"), &cases, |name| driver.case(name)).await
}
