//! Network namespaces: one for each node, one for the control program, and one for the bridge between them, so that nothing
//! of a run can reach another network. Cutting and losing is done by nftables in the namespace of who should not hear, slowing
//! down by a token bucket (`tc … tbf`) in that of who sends.
use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
};

/// The network exists inside the namespaces only.
const NETWORK: [u8; 3] = [10, 99, 7];
const HTTP_PORT: u16 = 8848;
/// The last part of the control program's address.
const CONTROL: u8 = 100;

/// Namespaces that are removed when this is dropped.
pub struct Namespaces {
    prefix: String,
    count: usize,
}

fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} {}: {}", arguments.join(" "), why.trim())))
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    run("ip", arguments)
}

impl Namespaces {
    /// Makes them, for so many nodes.
    pub fn new(prefix: &str, count: usize) -> io::Result<Self> {
        // What is there when a step fails is removed with it.
        let made = Self { prefix: prefix.to_owned(), count };
        let bridge = made.bridge();
        for name in made.all() {
            ip(&["netns", "add", &name])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
        }
        ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &bridge, "link", "set", "br0", "up"])?;
        for (name, host) in made.hosts() {
            let cable = format!("v{host}");
            let address = format!("{}/24", address(host));
            ip(&["link", "add", &cable, "netns", &bridge, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            ip(&["-n", &bridge, "link", "set", &cable, "master", "br0", "up"])?;
            ip(&["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        }
        // Partitions need it; better to know now.
        run("ip", &["netns", "exec", &made.control(), "nft", "list", "ruleset"])?;
        Ok(made)
    }

    /// Where the control program lives.
    pub fn control(&self) -> String {
        format!("{}c", self.prefix)
    }

    fn bridge(&self) -> String {
        format!("{}b", self.prefix)
    }

    fn hosts(&self) -> Vec<(String, u8)> {
        let nodes = (0..self.count).map(|slot| (node(&self.prefix, slot), host(slot)));
        nodes.chain([(self.control(), CONTROL)]).collect()
    }

    fn all(&self) -> Vec<String> {
        self.hosts().into_iter().map(|(name, _)| name).chain([self.bridge()]).collect()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in self.all() {
            if let Err(err) = ip(&["netns", "del", &name]) {
                eprintln!("{err}");
            }
        }
    }
}

fn host(slot: usize) -> u8 {
    slot as u8 + 1
}

fn address(host: u8) -> IpAddr {
    let [a, b, c] = NETWORK;
    IpAddr::V4(Ipv4Addr::new(a, b, c, host))
}

/// The namespace of a node.
pub fn node(prefix: &str, slot: usize) -> String {
    format!("{prefix}{slot}")
}

/// Where a node serves HTTP.
pub fn http(slot: usize) -> SocketAddr {
    SocketAddr::new(address(host(slot)), HTTP_PORT)
}

/// Who hears whom.
pub struct Net {
    prefix: String,
    count: usize,
}

impl Net {
    pub fn new(prefix: &str, count: usize) -> Self {
        Self { prefix: prefix.to_owned(), count }
    }

    /// For each pair, the second no longer hears the first.
    pub fn cut(&self, pairs: &[(usize, usize)]) -> io::Result<()> {
        self.rules(pairs, "")
    }

    /// For each pair, the second misses this percentage of what the first sends.
    pub fn lose(&self, pairs: &[(usize, usize)], percent: u32) -> io::Result<()> {
        self.rules(pairs, &format!("numgen random mod 100 < {percent} "))
    }

    fn rules(&self, pairs: &[(usize, usize)], condition: &str) -> io::Result<()> {
        let mut hearers: BTreeMap<usize, String> = BTreeMap::new();
        for (from, to) in pairs {
            let rule = format!("    ip saddr {} {condition}counter drop\n", address(host(*from)));
            hearers.entry(*to).or_default().push_str(&rule);
        }
        for (slot, rules) in hearers {
            let script = format!(
                "table inet chaos {{\n  chain in {{\n    type filter hook input priority -300; policy accept;\n{rules}  }}\n}}\n"
            );
            self.nft(slot, &["-f", "-"], &script)?;
        }
        Ok(())
    }

    /// Takes all rules away; how many packets they had dropped.
    pub fn heal(&self) -> io::Result<u64> {
        let mut dropped = 0;
        for slot in 0..self.count {
            let rules = self.nft(slot, &["list", "ruleset"], "")?;
            let counts = rules.split("counter packets ").skip(1).filter_map(|it| it.split(' ').next());
            dropped += counts.filter_map(|it| it.parse::<u64>().ok()).sum::<u64>();
            self.nft(slot, &["flush", "ruleset"], "")?;
        }
        Ok(dropped)
    }

    /// No more than this leaves each of these nodes; what has to wait for longer than a second is lost.
    pub fn slow(&self, slots: &[usize], kbit: u32) -> io::Result<()> {
        let rate = format!("{kbit}kbit");
        let tbf = ["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", &rate, "burst", "3200", "latency", "1s"];
        slots.iter().try_for_each(|slot| self.inside(*slot, "tc", &tbf, "").map(drop))
    }

    /// Takes those limits away; how many packets had to wait.
    pub fn fast(&self, slots: &[usize]) -> io::Result<u64> {
        let mut waited = 0;
        for slot in slots {
            let shown = self.inside(*slot, "tc", &["-s", "qdisc", "show", "dev", "eth0"], "")?;
            let counts = shown.split("overlimits ").skip(1).filter_map(|it| it.split(' ').next());
            waited += counts.filter_map(|it| it.parse::<u64>().ok()).sum::<u64>();
            self.inside(*slot, "tc", &["qdisc", "del", "dev", "eth0", "root"], "")?;
        }
        Ok(waited)
    }

    fn nft(&self, slot: usize, arguments: &[&str], script: &str) -> io::Result<String> {
        self.inside(slot, "nft", arguments, script)
    }

    /// What a program prints that runs in the namespace of a node.
    fn inside(&self, slot: usize, program: &str, arguments: &[&str], script: &str) -> io::Result<String> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &node(&self.prefix, slot), program])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(io::Error::other(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }
}
