//! One suite for both stores: what a connection may rely on, whichever is behind it.

use std::sync::Arc;

use nsd_broker::access::DeviceRecord;
use nsd_broker::message::{Message, Will};
use nsd_broker::settings::RedisSettings;
use nsd_broker::store::keys::shard;
use nsd_broker::store::{Claim, Link, MemoryStore, RedisStore, Store};
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
    let claim = |client_id, clean_start| Claim {
        client_id,
        will: will.as_ref(),
        expiry: 0,
        clean_start,
        instead_of: None,
    };
    let first = store.claim(&claim("c", true)).await.unwrap();
    let other = store.claim(&claim("other", true)).await.unwrap();
    let second = store.claim(&claim("c", false)).await.unwrap();
    assert!(first.epoch < other.epoch && other.epoch < second.epoch, "epochs only go up");
    assert!(second.stored.is_none(), "there was no session to keep");
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

    // Two nodes: a session goes from one to the other, with the will of the connection before, which is due.
    let (a, b) = (RedisStore::new(Arc::clone(&link), 1), RedisStore::new(link, 2));
    let (a, b) = (Store::Redis(a), Store::Redis(b));
    let will = will();
    let claim =
        Claim { client_id: "moved", will: will.as_ref(), expiry: 60, clean_start: false, instead_of: None };
    let old = a.claim(&claim).await.unwrap();
    assert!(old.session.is_some() && old.stored.is_none() && !old.owes);
    let new = b.claim(&claim).await.unwrap();
    assert_eq!((new.session, new.stored.unwrap().session), (old.session, old.session.unwrap()));
    let owed: Vec<Vec<u8>> = connection.hvals("nsd:wills:0000000000000002").unwrap();
    assert!(new.owes);
    assert_eq!(owed, [will.clone().unwrap().message.bytes()]);
    let key = format!("nsd:{{s{}}}:client:moved", shard("moved"));
    assert_eq!(connection.hget(&key, "node"), Ok("0000000000000002".to_owned()));
    // A claim in the place of one: no will of anybody is due. It begins anew.
    let anew = b.claim(&Claim { clean_start: true, instead_of: Some(new.epoch), ..claim }).await.unwrap();
    assert!(anew.session > old.session && anew.stored.is_none() && !anew.owes);
}
