//! One suite for both stores: what a connection may rely on, whichever is behind it.

use std::sync::Arc;

use nsd_broker::access::DeviceRecord;
use nsd_broker::message::{Message, Will};
use nsd_broker::settings::RedisSettings;
use nsd_broker::store::{Link, MemoryStore, RedisStore, Store};
use nsd_wire::Publish;
use redis::Commands;

use crate::support::Redis;

const SECRET: &str = "$sha256$00$11";

fn will() -> Option<Will> {
    Message::new(&Publish::new("will", b"x")).map(|message| Will { message, delay: 0 })
}

async fn suite(store: &Store) {
    let record = store.device("d1").await.unwrap().unwrap();
    assert_eq!((record.secret.as_str(), record.disabled), (SECRET, false));
    assert!(store.device("d2").await.unwrap().unwrap().disabled);
    assert!(store.device("d3").await.unwrap().is_none());

    let will = will();
    let first = store.claim("c", will.as_ref()).await.unwrap();
    let other = store.claim("other", None).await.unwrap();
    let second = store.claim("c", will.as_ref()).await.unwrap();
    assert!(first < other && other < second, "epochs only go up");
    assert!(!store.release("c", first).await.unwrap(), "an old owner gives nothing back");
    assert!(store.release("c", second).await.unwrap());
    assert!(!store.release("c", second).await.unwrap());
    assert!(store.claim("c", None).await.unwrap() > second);
    assert!(store.is_there());
}

#[tokio::test]
async fn memory() {
    let store = MemoryStore::default();
    store.add_device("d1", DeviceRecord { secret: SECRET.to_owned(), disabled: false });
    store.add_device("d2", DeviceRecord { secret: SECRET.to_owned(), disabled: true });
    suite(&Store::Memory(store)).await;
}

#[tokio::test]
async fn redis() {
    let server = Redis::start();
    let mut connection = server.connection();
    let _: () = connection.hset("nsd:device:d1", "secret", SECRET).unwrap();
    let _: () = connection.hset_multiple("nsd:device:d2", &[("secret", SECRET), ("disabled", "1")]).unwrap();
    let link = Link::new(&RedisSettings::parse(&server.url(), None, "nsd:").unwrap()).unwrap();
    link.use_now(link.connect().await.unwrap());
    let link = Arc::new(link);
    suite(&Store::Redis(RedisStore::new(Arc::clone(&link), 1))).await;

    // Two nodes: what one claims, the other loses; the first node's own end changes nothing of it.
    let (a, b) = (RedisStore::new(Arc::clone(&link), 1), RedisStore::new(link, 2));
    let (a, b) = (Store::Redis(a), Store::Redis(b));
    let will = will();
    let old = a.claim("moved", will.as_ref()).await.unwrap();
    let new = b.claim("moved", will.as_ref()).await.unwrap();
    assert!(!a.release("moved", old).await.unwrap());
    assert_eq!(connection.hget("nsd:client:moved", "node"), Ok("0000000000000002".to_owned()));
    assert_eq!(connection.hlen("nsd:wills:0000000000000001"), Ok(0));
    assert_eq!(connection.hlen("nsd:wills:0000000000000002"), Ok(1));
    assert!(b.release("moved", new).await.unwrap());
    assert_eq!(connection.exists("nsd:client:moved"), Ok(false));
    assert_eq!(connection.hlen("nsd:wills:0000000000000002"), Ok(0));
}
