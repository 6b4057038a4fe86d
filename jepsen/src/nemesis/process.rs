//! Faults of processes: killed, stopped, handed the lead, replaced, with a clock of their own.
use std::{fs, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Bite, Bitten, Nemesis, bite, plan::Target};
use crate::{cluster::FAKETIME, http::Http};

/// How long a killed node stays down: longer than an election.
const DOWN: Duration = Duration::from_millis(1_200);
/// How long a clock is wrong. The library looks at its file once in a second.
const CLOCK: Duration = Duration::from_millis(2_500);
/// A kernel stops a process at once, on a machine that has time for it.
const STOP_MAX: Duration = Duration::from_secs(5);
/// A jump of a clock, in seconds.
const JUMP: i64 = 3_600;

impl Nemesis {
    pub(super) async fn kill(&mut self, target: Target) -> Bitten {
        let slots = self.slots(target).await?;
        let mut evidence = Vec::new();
        for slot in &slots {
            evidence.push(self.cluster.kill(*slot).map_err(|err| err.to_string())?);
        }
        sleep(DOWN).await;
        if let Target::Leader | Target::Follower = target {
            let leader = self.cluster.wait_leader().await?;
            evidence.push(format!("then node {} led", self.cluster.id(leader)));
        }
        self.start_all(&slots)?;
        bite(format!("{target:?}"), evidence.join(", "))
    }

    pub(super) async fn bounce(&mut self, target: Target) -> Bitten {
        let slots = self.slots(target).await?;
        let mut evidence = Vec::new();
        for slot in &slots {
            evidence.push(self.cluster.kill(*slot).map_err(|err| err.to_string())?);
        }
        self.start_all(&slots)?;
        bite(format!("{target:?}"), evidence.join(", "))
    }

    pub(super) fn start_all(&mut self, slots: &[usize]) -> Result<(), String> {
        slots.iter().try_for_each(|slot| self.cluster.start(*slot, false)).map_err(|err| err.to_string())
    }

    pub(super) async fn pause(&mut self, target: Target, time: Duration) -> Bitten {
        let slot = self.slots(target).await?[0];
        self.cluster.signal(slot, "-STOP").map_err(|err| err.to_string())?;
        let deadline = Instant::now() + STOP_MAX;
        let mut state = self.cluster.process_state(slot);
        while state != Some('T') && Instant::now() < deadline {
            sleep(Duration::from_millis(2)).await;
            state = self.cluster.process_state(slot);
        }
        sleep(time).await;
        self.cluster.signal(slot, "-CONT").map_err(|err| err.to_string())?;
        let detail = format!("{target:?}, node {}, {} ms", self.cluster.id(slot), time.as_millis());
        let evidence = (state == Some('T')).then(|| "process state T".to_owned());
        Ok(Bite { detail, evidence })
    }

    pub(super) async fn transfer(&mut self) -> Bitten {
        let all = self.slots(Target::All).await?;
        let (from, to) = (self.cluster.id(all[0]), self.cluster.id(all[1]));
        let body = format!(r#"{{"node":{to}}}"#);
        self.cluster.administer(all[0], "POST", "/coracle/v1/cluster/leader", &body).await?;
        let leader = self.cluster.wait_leader().await?;
        let evidence = (leader != all[0]).then(|| format!("node {} leads", self.cluster.id(leader)));
        Ok(Bite { detail: format!("from node {from} to node {to}"), evidence })
    }

    pub(super) async fn replace(&mut self, target: Target) -> Bitten {
        let slot = self.slots(target).await?[0];
        let by = (slot + 1) % self.cluster.len();
        let old = self.cluster.id(slot);
        self.cluster.replace(slot, by).await?;
        let new = self.cluster.id(slot);
        let status = self.cluster.status(by).await.ok_or("no status")?;
        let is_member = |id: u64| status.members.iter().any(|it| it.node == id && it.role != "learner");
        let evidence = (is_member(new) && !is_member(old)).then(|| format!("node {new} votes, node {old} does not"));
        Ok(Bite { detail: format!("{target:?}: node {old} wiped, back as node {new}"), evidence })
    }

    /// Restarts a node under a clock that jumps an hour ahead, an hour back, and runs at double speed.
    pub(super) async fn clock(&mut self, target: Target) -> Bitten {
        let slot = self.slots(target).await?[0];
        let file = self.cluster.place(slot).log.with_extension("clock");
        let set = |offset: &str| fs::write(&file, format!("{offset}\n")).map_err(|err| err.to_string());
        set("+0")?;
        self.cluster.set_clock(slot, Some(file.clone()));
        self.restart(slot).await?;
        let (mut seen, mut hits) = (Vec::new(), 0);
        for (offset, wanted) in [(format!("+{JUMP}"), JUMP), (format!("-{JUMP}"), -JUMP), ("+0 x2".into(), 0)] {
            set(&offset)?;
            sleep(CLOCK).await;
            let off = self.clock_is_off_by(slot).await?;
            hits += usize::from((off - wanted).abs() < JUMP / 2);
            seen.push(format!("{offset}: {off} s"));
        }
        self.cluster.set_clock(slot, None);
        self.restart(slot).await?;
        let seen = seen.join(", ");
        let detail = format!("{target:?}, node {}, {seen}", self.cluster.id(slot));
        let evidence = (hits == 3).then_some(seen);
        Ok(Bite { detail, evidence })
    }

    pub(super) async fn restart(&mut self, slot: usize) -> Result<(), String> {
        self.cluster.kill(slot).map_err(|err| err.to_string())?;
        self.cluster.start(slot, false).map_err(|err| err.to_string())?;
        self.cluster.wait_ready(slot).await
    }

    /// Seconds between a node's wall clock and this one.
    async fn clock_is_off_by(&self, slot: usize) -> Result<i64, String> {
        // A web server may remember the date of its answers for longer than a clock that jumps back; a new configuration has
        // the time of the node that took it.
        let target = format!("/nacos/v1/cs/configs?dataId=clock-{}&group=G", self.recorder.now());
        let mut http = Http::new(self.cluster.targets.get(slot).1, STOP_MAX);
        let put =
            http.request("POST", &format!("{target}&content=x"), "", "").await.map_err(|lost| lost.to_string())?;
        let answer = http.get(&target).await.map_err(|lost| lost.to_string())?;
        let date = answer.header("last-modified").ok_or_else(|| format!("no date: {}", put.text()))?;
        let there = httpdate::parse_http_date(date).map_err(|err| err.to_string())?;
        #[allow(clippy::disallowed_methods, reason = "wall clocks are compared")]
        let here = std::time::SystemTime::now();
        let seconds = |it: Duration| it.as_secs() as i64;
        Ok(there.duration_since(here).map_or_else(|err| -seconds(err.duration()), seconds))
    }
}

/// Whether clocks can be faked here.
pub fn clocks() -> Result<(), String> {
    if std::path::Path::new(FAKETIME).exists() { Ok(()) } else { Err(format!("{FAKETIME} is not installed")) }
}
