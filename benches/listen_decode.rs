//! Question: how long does it take to read a listening request of 3,000 keys?
use std::time::Duration;

use coracle::nacos::wire::listening;

#[path = "support/timing.rs"]
mod timing;

fn main() {
    let md5 = "5d41402abc4b2a76b9719d911017c592";
    let text: String =
        (0..3_000).map(|at| format!("application-{at}.yaml\u{2}DEFAULT_GROUP\u{2}{md5}\u{2}dev\u{1}")).collect();
    let rate = timing::per_second(Duration::from_secs(1), || {
        let lines = listening::decode(&text).expect("well formed");
        assert_eq!(lines.len(), 3_000);
        1
    });
    println!("3,000 keys, {} bytes: {:.0} µs", text.len(), 1e6 / rate);
}
