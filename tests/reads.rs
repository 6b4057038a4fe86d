//! `--reads linearizable`: clients that cannot ask for more get it all the same.
#![allow(clippy::unwrap_used)]

#[path = "support/grpc.rs"]
mod grpc;
#[path = "support/process.rs"]
mod process;

use grpc::Client;
use process::{Http, Server, free_port};
use serde_json::json;

const PROGRAM: &str = env!("CARGO_BIN_EXE_coracle");
const QUERY: &str = "/nacos/v1/cs/configs?dataId=a&group=G";

fn pair(dir: &std::path::Path, reads: &str) -> Vec<Server> {
    let ports = [free_port(), free_port()];
    let members = format!("1=127.0.0.1:{},2=127.0.0.1:{}", ports[0] - 1000, ports[1] - 1000);
    let start = |(id, port): (&str, u16)| {
        let flags = ["--node-id", id, "--members", &members, "--reads", reads];
        Server::spawn(PROGRAM, &dir.join(id), port, &flags)
    };
    let mut nodes: Vec<Server> = ["1", "2"].into_iter().zip(ports).map(start).collect();
    nodes.iter_mut().for_each(Server::wait_ready);
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_read_includes_what_another_node_acknowledged_or_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = pair(dir.path(), "linearizable");
    let address = format!("http://127.0.0.1:{}", nodes[1].port + 1000);
    let client = Client::introduced(&address).await.unwrap();
    let over_grpc = async || client.try_ask("ConfigQueryRequest", &json!({ "dataId": "a", "group": "G" })).await;
    let (mut writer, mut reader) = (Http::connect(nodes[0].port).unwrap(), Http::connect(nodes[1].port).unwrap());
    for at in 0..100 {
        let text = at.to_string();
        assert_eq!(writer.publish("a", &text).unwrap().0, 200);
        if at % 2 == 0 {
            assert_eq!(reader.get(QUERY).unwrap(), (200, text.into_bytes()));
        } else {
            assert_eq!(over_grpc().await.unwrap().1["content"], text);
        }
    }
    nodes[0].kill();
    // One that names a revision gets no less than one that does not.
    assert_eq!(reader.get(&format!("{QUERY}&minRevision=1")).unwrap().0, 503);
    let (status, why) = reader.get(QUERY).unwrap();
    let why = String::from_utf8(why).unwrap();
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("linearizable"), "{why}");
    let (_, refused) = over_grpc().await.unwrap();
    assert_eq!(refused["success"], false, "{refused}");
    assert_eq!(refused["errorCode"], 503, "{refused}");
    assert_eq!(reader.get(&format!("{QUERY}&consistency=local")).unwrap(), (200, b"99".to_vec()));
}

#[test]
fn unless_told_so_a_node_without_a_majority_answers_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = pair(dir.path(), "local");
    let mut reader = Http::connect(nodes[1].port).unwrap();
    assert_eq!(reader.publish("a", "x").unwrap().0, 200);
    nodes[0].kill();
    assert_eq!(reader.get(QUERY).unwrap(), (200, b"x".to_vec()));
    let (status, _) = reader.get(&format!("{QUERY}&consistency=linearizable")).unwrap();
    assert_eq!(status, 503);
}
