//! Drives the Rust client `nacos-sdk`: one line for each case.
use std::{collections::HashMap, env, sync::Arc, time::Duration};

use md5::{Digest, Md5};
use nacos_sdk::api::{
    config::{ConfigChangeListener, ConfigResponse, ConfigService, ConfigServiceBuilder},
    props::ClientProps,
};
use sdk_driver::{
    CHANGES, Failure, GROUP, Heard, Outcome, PUBLISHED, Rolled, check, mine, rolling, run, servers, until, until_done,
};
use tokio::{task::JoinSet, time::sleep};

/// It tells a server what it listens to once, and says it again to another one only with its next list, every 60 s.
const RELIST_S: u64 = 65;

struct Listener(Arc<Heard>);

impl ConfigChangeListener for Listener {
    fn notify(&self, response: ConfigResponse) {
        self.0.add(response.content());
    }
}

struct Driver {
    run: String,
    addresses: String,
    client: ConfigService,
}

async fn client(addresses: &str, namespace: &str) -> Result<ConfigService, Failure> {
    labelled(addresses, namespace, HashMap::new()).await
}

async fn labelled(addresses: &str, namespace: &str, labels: HashMap<String, String>) -> Result<ConfigService, Failure> {
    let props = ClientProps::new().server_addr(addresses).namespace(namespace).app_name("driver").labels(labels);
    Ok(ConfigServiceBuilder::new(props).build().await?)
}

async fn publish(client: &ConfigService, key: &str, content: &str) -> Outcome {
    let done = client.publish_config(key.into(), GROUP.into(), content.into(), Some("text".into())).await?;
    check(done, format!("publish {content:?}: refused"))
}

async fn get(client: &ConfigService, key: &str) -> Result<String, Failure> {
    Ok(client.get_config(key.into(), GROUP.into()).await?.content().clone())
}

async fn listen(client: &ConfigService, key: &str) -> Result<Arc<Heard>, Failure> {
    let heard = Arc::<Heard>::default();
    client.add_listener(key.into(), GROUP.into(), Arc::new(Listener(heard.clone()))).await?;
    Ok(heard)
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
        check(get(&self.client, &key).await.is_err(), "seen in another namespace")?;
        let heard = listen(&other, &key).await?;
        sleep(Duration::from_secs(1)).await;
        publish(&self.client, &key, "in no namespace").await?;
        publish(&other, &key, "changed").await?;
        until("the change in a namespace", 10, || heard.has("changed")).await?;
        check(!heard.has("in no namespace"), "told of another namespace")
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
        check(self.client.remove_config(key.clone(), GROUP.into()).await?, "not removed")?;
        // It asks for the content of what was removed, and says nothing of not finding it.
        sleep(Duration::from_secs(1)).await;
        publish(&self.client, &key, "back").await?;
        until("the creation after a removal", 10, || heard.has("back")).await
    }

    async fn many(&self, count: usize) -> Outcome {
        let mut listening = JoinSet::new();
        // Not all at once: this client asks for each key when it begins to listen.
        for first in 0..PUBLISHED {
            let keys: Vec<String> =
                (first..count).step_by(PUBLISHED).map(|at| self.key(&format!("many{count}-{at}"))).collect();
            let client = self.client.clone();
            listening.spawn(async move {
                let mut heard = Vec::new();
                for key in keys {
                    // This client does not listen to a key that is not there yet.
                    publish(&client, &key, "before").await?;
                    heard.push((listen(&client, &key).await?, key));
                }
                Ok::<_, Failure>(heard)
            });
        }
        let mut told = Vec::new();
        while let Some(heard) = listening.join_next().await {
            told.extend(heard??.pop());
        }
        sleep(Duration::from_secs(2)).await;
        for (_, key) in &told {
            publish(&self.client, key, "told").await?;
        }
        until("all of 20", 30, || told.iter().all(|(heard, _)| heard.has("told"))).await
    }

    async fn publish_beta(&self, key: &str, ips: String, content: &str) -> Outcome {
        let done = self.client.publish_config_beta(key.into(), GROUP.into(), content.into(), None, ips).await?;
        check(done, "publish of a beta version: refused")
    }

    async fn beta(&self) -> Outcome {
        let key = self.key("beta");
        publish(&self.client, &key, "formal").await?;
        let heard = listen(&self.client, &key).await?;
        sleep(Duration::from_secs(1)).await;
        self.publish_beta(&key, mine().await?, "gray").await?;
        until("the gray version", 10, || heard.has("gray")).await?;
        check(get(&self.client, &key).await? == "gray", "reads another version than it was told of")?;
        servers(&["stop-beta", GROUP, &key]).await?;
        until("the formal version again", 10, || heard.last() == "formal").await?;
        self.publish_beta(&key, "10.9.9.9".into(), "for another").await?;
        sleep(Duration::from_millis(1_500)).await;
        check(heard.last() == "formal" && get(&self.client, &key).await? == "formal", "got what is for another")
    }

    /// A client with a label, beside one without.
    async fn tag(&self) -> Outcome {
        let labels = HashMap::from([("app_Vipserver-Tag".into(), "t1".into())]);
        let tagged = labelled(&self.addresses, "", labels).await?;
        let key = self.key("tag");
        publish(&self.client, &key, "formal").await?;
        let heard = listen(&tagged, &key).await?;
        sleep(Duration::from_secs(1)).await;
        servers(&["tag", GROUP, &key, "t1", "gray"]).await?;
        until("the version of its tag", 10, || heard.has("gray")).await?;
        check(get(&tagged, &key).await? == "gray", "reads another version than that of its tag")?;
        check(get(&self.client, &key).await? == "formal", "reads what is for a tag")
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

    /// With the only client of the process: the node that it is connected to is killed.
    async fn leader_killed(&self) -> Outcome {
        let key = self.key("leader");
        publish(&self.client, &key, "before").await?;
        let heard = listen(&self.client, &key).await?;
        sleep(Duration::from_secs(1)).await;
        servers(&["kill-leader"]).await?;
        // By another client, at another node: this one has to find its way by itself.
        servers(&["publish", GROUP, &key, "after"]).await?;
        until("the change after it", RELIST_S, || heard.has("after")).await?;
        servers(&["settle"]).await
    }

    async fn restarted(&self) -> Outcome {
        let client = client(&self.addresses, "").await?;
        let key = self.key("restart");
        publish(&client, &key, "before").await?;
        let heard = listen(&client, &key).await?;
        sleep(Duration::from_secs(1)).await;
        servers(&["restart"]).await?;
        until_done(|| publish(&client, &key, "after")).await?;
        until("the change after it", RELIST_S, || heard.has("after")).await
    }

    /// Each key changes once: a change that is lost stays lost. No request may fail.
    async fn restarts(&self) -> Outcome {
        let (listening, asking) = (client(&self.addresses, "").await?, client(&self.addresses, "").await?);
        let keys: Vec<String> = (0..CHANGES).map(|at| self.key(&format!("rolling{at}"))).collect();
        let mut heard = Vec::new();
        for key in &keys {
            publish(&asking, key, "before").await?;
            heard.push(listen(&listening, key).await?);
        }
        let Rolled { changed, errors, .. } = rolling(async |at: usize, content: String| {
            publish(&asking, &keys[at], &content).await?;
            let got = get(&asking, &keys[at]).await?;
            check(got == content, format!("read {got:?}"))
        })
        .await?;
        until("the changes", RELIST_S, || changed.iter().all(|(at, content)| heard[*at].has(content))).await?;
        check(errors.is_empty(), format!("{} of {} changes: {errors:?}", errors.len(), changed.len()))
    }

    async fn case(&self, name: &str) -> Outcome {
        match name {
            "exact bytes" => self.exact_bytes().await,
            "1 MiB" => self.one_mebibyte().await,
            "cas" => self.cas().await,
            "remove" => self.remove().await,
            "namespaces" => self.namespaces().await,
            "listen: first, second, same content" => self.listening().await,
            "listen: delete and create" => self.delete_and_create().await,
            "100 listeners" => self.many(100).await,
            "3000 listeners" => self.many(3_000).await,
            "beta" => self.beta().await,
            "tag" => self.tag().await,
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
    let driver = Driver { run: run_id, client: client(&addresses, "").await?, addresses };
    let three = env::var("CORACLE_MODE")? == "three";
    // First: the process has one client yet.
    let mut cases = if three { vec!["leader killed"] } else { vec![] };
    cases.extend([
        "exact bytes",
        "1 MiB",
        "cas",
        "remove",
        "namespaces",
        "listen: first, second, same content",
        "listen: delete and create",
        "100 listeners",
        "3000 listeners",
        "beta",
        "tag",
    ]);
    if three {
        cases.extend(["two nodes", "rolling restart"]);
    }
    cases.push("server restarted");
    run(&format!("nacos-sdk {version}"), &cases, |name| driver.case(name)).await
}
