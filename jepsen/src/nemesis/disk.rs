//! Faults of disks: power that goes, space that ends, flushes that fail, bits that flip.
use std::{sync::MutexGuard, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Bite, Bitten, Nemesis, plan::Target};
use crate::disk::{Disk, Lost};

/// How long to wait for a fault of a disk to be noticed: a snapshot or a new piece of the log may have to come first.
const BITE_MAX: Duration = Duration::from_secs(12);
/// How long it goes on after that.
const GOES_ON: Duration = Duration::from_millis(1_500);
/// How long a node may take to show that it goes on by itself when its disk is well again.
const RECOVERY_MAX: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);

impl Nemesis {
    fn disk(&self, slot: usize) -> Result<MutexGuard<'_, Disk>, String> {
        Ok(self.disks.as_ref().map_err(Clone::clone)?[slot].disk())
    }

    pub(super) async fn power_loss(&mut self, target: Target, torn: bool) -> Bitten {
        let slots = self.slots(target).await?;
        for slot in &slots {
            self.cluster.kill(*slot).map_err(|err| err.to_string())?;
        }
        let mut total = Lost::default();
        for slot in &slots {
            let mut random = self.random.clone();
            let lost = self.disk(*slot)?.crash(torn.then_some(&mut random));
            self.random = random;
            total.bytes += lost.bytes;
            total.names += lost.names;
            total.torn_bytes += lost.torn_bytes;
        }
        self.start_all(&slots)?;
        let detail = format!("{target:?}{}", if torn { ", torn" } else { "" });
        let Lost { bytes, names, torn_bytes } = total;
        let told = format!("{bytes} bytes and {names} names lost, {torn_bytes} bytes torn");
        Ok(Bite { detail, evidence: (bytes > 0).then_some(told) })
    }

    pub(super) async fn disk_full(&mut self, target: Target) -> Bitten {
        let slot = self.slots(target).await?[0];
        let before = {
            let mut disk = self.disk(slot)?;
            disk.used_max = disk.used();
            disk.failed
        };
        let failed = self.failures(slot, before).await?;
        self.disk(slot)?.used_max = u64::MAX;
        let after = self.recovers(slot).await?;
        let detail = format!("{target:?}, node {}: {after}", self.cluster.id(slot));
        Ok(Bite { detail, evidence: (failed > 0).then(|| format!("{failed} writes refused")) })
    }

    /// Flushes fail; what they should have written the kernel believes to be on the disk. Then the power goes.
    pub(super) async fn disk_error(&mut self, target: Target) -> Bitten {
        let slot = self.slots(target).await?[0];
        let before = {
            let mut disk = self.disk(slot)?;
            disk.flushes_fail = true;
            disk.failed
        };
        let failed = self.failures(slot, before).await?;
        self.disk(slot)?.flushes_fail = false;
        let ended = self.cluster.ended(slot).unwrap_or_else(|| "went on".into());
        self.cluster.kill(slot).map_err(|err| err.to_string())?;
        let lost = self.disk(slot)?.crash(None);
        self.start_all(&[slot])?;
        let detail = format!("{target:?}, node {}: {ended}; then {} bytes lost", self.cluster.id(slot), lost.bytes);
        Ok(Bite { detail, evidence: (failed > 0).then(|| format!("{failed} flushes failed")) })
    }

    /// Waits until a disk has failed something, and a moment longer; how often it has.
    async fn failures(&mut self, slot: usize, before: u64) -> Result<u64, String> {
        let deadline = Instant::now() + BITE_MAX;
        while self.disk(slot)?.failed == before && Instant::now() < deadline {
            sleep(POLL).await;
        }
        sleep(GOES_ON).await;
        Ok(self.disk(slot)?.failed - before)
    }

    /// Whether a node goes on by itself; if not, it is started again.
    async fn recovers(&mut self, slot: usize) -> Result<String, String> {
        let deadline = Instant::now() + RECOVERY_MAX;
        while Instant::now() < deadline {
            if self.cluster.status(slot).await.is_some_and(|it| it.ready) {
                return Ok("went on by itself".into());
            }
            if let Some(how) = self.cluster.ended(slot) {
                self.start_all(&[slot])?;
                return Ok(format!("ended ({how}), started again"));
            }
            sleep(POLL).await;
        }
        self.restart(slot).await?;
        Ok("failed, started again".into())
    }

    /// The node heals, or refuses to start and is replaced. That it does neither and lies, other checks find.
    pub(super) async fn bit_flip(&mut self, target: Target) -> Bitten {
        let slot = self.slots(target).await?[0];
        self.cluster.kill(slot).map_err(|err| err.to_string())?;
        let mut random = self.random.clone();
        let flipped = self.disk(slot)?.flip_bit(".seg", &mut random);
        self.random = random;
        self.start_all(&[slot])?;
        let after = match self.cluster.wait_ready(slot).await {
            Ok(()) => "started".to_owned(),
            Err(why) => {
                let by = (slot + 1) % self.cluster.len();
                self.cluster.replace(slot, by).await?;
                format!("refused and was replaced: {why}")
            }
        };
        Ok(Bite { detail: format!("{target:?}, node {}: {after}", self.cluster.id(slot)), evidence: flipped })
    }
}
