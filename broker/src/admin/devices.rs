//! Devices of the broker's own store: who may come in by name and secret. With Redis, `nsd device` keeps them there.

use std::sync::Arc;

use aws_lc_rs::rand;
use nsd_edge::admin::{Reply, Request, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{page, wanted};
use crate::access::{DeviceRecord, is_device_id};
use crate::node::Node;
use crate::store::Store;

/// 256 bits: no word list reaches them, so a fast hash is enough.
const SECRET_BYTES: usize = 32;
const SALT_BYTES: usize = 16;

/// Names; never secrets.
pub(super) fn list(node: &Node, request: &Request) -> Reply {
    let (limit, after) = match page(request) {
        Ok(page) => page,
        Err(reply) => return reply,
    };
    let Store::Memory(store) = &*node.store else { return elsewhere() };
    let mut devices = store.devices(after.as_deref(), limit + 1);
    let more = devices.len() > limit;
    devices.truncate(limit);
    let next = devices.last().filter(|_| more).map(|(id, _)| id.clone());
    let entry = |(id, disabled): (Box<str>, bool)| json!({ "id": id, "disabled": disabled });
    let devices: Vec<Value> = devices.into_iter().map(entry).collect();
    Reply::json(StatusCode::OK, &json!({ "devices": devices, "next": next }))
}

/// Makes a device; its secret is in this answer, and nowhere after it.
pub(super) async fn add(node: Arc<Node>, request: Request) -> Reply {
    let id = match wanted(&request, "id") {
        Ok(id) if is_device_id(&id) => id,
        Ok(_) => {
            return Reply::problem(StatusCode::BAD_REQUEST, "id: 1 to 64 of A-Z, a-z, 0-9, `.`, `_`, `-`");
        }
        Err(reply) => return reply,
    };
    let Store::Memory(store) = &*node.store else { return elsewhere() };
    if store.device(&id).is_some() && request.query("replace").as_deref() != Some("true") {
        let what = format!("{id} is there already: replace its secret, or remove it first");
        return Reply::problem(StatusCode::CONFLICT, what);
    }
    let Some((secret, kept)) = secret() else {
        return Reply::problem(StatusCode::INTERNAL_SERVER_ERROR, "this machine gives no random numbers");
    };
    match node.set_device(&id, Some(DeviceRecord { secret: kept, disabled: false })).await {
        Ok(()) => Reply::json(StatusCode::OK, &json!({ "id": id, "secret": secret })),
        Err(reason) => not_stored(reason.text()),
    }
}

pub(super) async fn remove(node: Arc<Node>, request: Request) -> Reply {
    let id = match wanted(&request, "id") {
        Ok(id) => id,
        Err(reply) => return reply,
    };
    let Store::Memory(store) = &*node.store else { return elsewhere() };
    if store.device(&id).is_none() {
        return Reply::problem(StatusCode::NOT_FOUND, format!("there is no device {}", id.escape_debug()));
    }
    match node.set_device(&id, None).await {
        Ok(()) => Reply::json(StatusCode::OK, &json!({ "removed": id })),
        Err(reason) => not_stored(reason.text()),
    }
}

/// A secret, and what is kept of it.
fn secret() -> Option<(String, String)> {
    let (mut secret, mut salt) = ([0; SECRET_BYTES], [0; SALT_BYTES]);
    rand::fill(&mut secret).ok()?;
    rand::fill(&mut salt).ok()?;
    let secret = hex::encode(secret);
    let digest = Sha256::new().chain_update(salt).chain_update(&secret).finalize();
    let kept = format!("$sha256${}${}", hex::encode(salt), hex::encode(digest));
    Some((secret, kept))
}

fn elsewhere() -> Reply {
    Reply::problem(StatusCode::CONFLICT, "the devices of this broker are in Redis: use `nsd device`")
}

fn not_stored(why: &str) -> Reply {
    Reply::problem(StatusCode::INSUFFICIENT_STORAGE, format!("it could not be stored: {why}"))
}
