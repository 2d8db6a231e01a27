//! Menus for providers: sent as a whole, one of a branch at a time, and matched with the provider's later result.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    at_end::Ends,
    hub::Hub,
    log::payload,
    outside::{CAREEM_POS, DELIVERY_HERO, Outside, send},
    platform::Say,
    wait::{PATIENCE, eventually},
};

const MENU: &str = include_str!("fixtures/menu.json");
const PATH: &str = "menus/careem/branch-uuid";

impl Outside {
    async fn put_menu(&self, hub: &Hub) {
        // An amount that no binary fraction is.
        let menu = MENU.replace("\"1.250\"", "\"16.240\"");
        let answer = send(hub, Method::PUT, PATH, &menu, &[]).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }

    /// The provider's word about a menu, as a webhook.
    async fn word(&self, hub: &Hub, reference: &str, status: &str, number: usize) {
        let body = json!({
            "event_type": "CATALOG_STATUS",
            "details": { "number": number, "branch_id": "store-9", "catalog_id": reference, "status": status, "message": "item x has no price" },
        });
        let text = body.to_string();
        // The merchant's header is not theirs.
        let signature = crate::harness::careem::sign(crate::harness::careem::SECRET, text.as_bytes());
        let answer = self
            .world
            .careem
            .post_raw(hub, text, &[("x-careem-signature", &signature)])
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Lets NATS refuse lanes that are longer than so many bytes; -1: none.
    async fn longest_lane(&self, bytes: i32) {
        let provision = self.world.nats.provision().await;
        let stream = provision.get_stream("LANES").await.unwrap();
        let mut config = stream.cached_info().config.clone();
        config.max_message_size = bytes;
        provision.update_stream(config).await.unwrap();
    }

    /// What the provider calls the menus that it took.
    fn references(&self) -> Vec<String> {
        let calls = self.provider.calls();
        let menus = calls
            .iter()
            .filter(|call| call.path == "/catalogs" && call.status == 200);
        menus
            .map(|call| call.json()["catalog_id"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

/// Answers with the catalogue's own id, as the real one does.
fn by_answer(file: &str) -> String {
    file.replace("every = \"2m\"", "every = \"0s\"")
}

/// Without an id in the answer: what the request calls it stands in the webhook, and there is one menu at a time.
#[tokio::test(flavor = "multi_thread")]
async fn a_menu_is_synced_when_the_provider_reports_it() {
    let outside = Outside::new(CAREEM_POS).await;
    let hub = outside.hub().await;
    outside.put_menu(&hub).await;
    let accepted = &outside.payloads(EventType::MenuSyncAccepted, 1).await[0];
    assert_eq!(accepted["providerStatus"], 200);
    let call = &outside.provider.calls()[0];
    let (body, items) = (call.json(), &call.json()["items"]);
    assert_eq!((call.method.as_str(), call.path.as_str()), ("PUT", "/catalogs"));
    assert_eq!(
        (call.header("brand-id"), call.header("branch-id")),
        ("brand-7", "store-9")
    );
    // Amounts come out as they went in.
    let text = std::str::from_utf8(&call.body).unwrap();
    assert!(
        text.contains("\"price\":4.5}") && text.contains("\"price\":16.24}"),
        "{text}"
    );
    assert_eq!(
        (
            &items[0]["name"],
            &items[0]["name_localized"]["ar"],
            &items[0]["group_ids"],
            &items[1]["active"]
        ),
        (
            &json!("Chicken shawarma"),
            &json!("شاورما دجاج"),
            &json!(["extras"]),
            &json!(false)
        )
    );
    assert_eq!(body["groups"][0]["options"][1]["price"], json!(0.25));
    assert_eq!(
        body["categories"][0]["item_ids"],
        json!(["chicken-shawarma", "lentil-soup"])
    );
    // Still at it: nothing is decided.
    let reference = outside.references().remove(0);
    outside.word(&hub, &reference, "processing", 1).await;
    outside.world.log.wait_for(EventType::OrderIgnored, 1).await;
    outside.word(&hub, &reference, "completed", 2).await;
    let synced = &outside.payloads(EventType::MenuSynced, 1).await[0];
    assert_eq!((&synced["ref"], &synced["attempts"]), (&json!(reference), &json!(1)));
    let events = outside.world.log.events().await;
    let event = events
        .iter()
        .find(|event| event.envelope.event_type == EventType::MenuSynced)
        .unwrap();
    assert_eq!(
        (&*event.envelope.external_order_id, event.envelope.branch.as_deref()),
        ("menu:branch-uuid", Some("branch-uuid"))
    );
    assert_eq!(outside.provider.calls().len(), 1);
    outside.world.at_end(Ends::default().ignored(1)).await;
}

/// Its word comes as a webhook, and names the menu that it took before this one: that one is not this one's.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_another_menu_does_not_end_this_one() {
    let outside = Outside::new(&by_answer(CAREEM_POS)).await;
    let hub = outside.hub().await;
    outside
        .provider
        .on("/catalogs", Say::json(&json!({ "catalog_id": "job-2" })));
    outside.put_menu(&hub).await;
    outside.payloads(EventType::MenuSyncAccepted, 1).await;
    outside.word(&hub, "job-1", "failed", 1).await;
    outside.payloads(EventType::MenuSyncReported, 1).await;
    outside.word(&hub, "job-2", "completed", 2).await;
    let synced = &outside.payloads(EventType::MenuSynced, 1).await[0];
    assert_eq!(synced["ref"], "job-2");
    outside.world.at_end(Ends::default()).await;
}

/// The provider's word is here before its answer to the menu is: it is about this menu all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_comes_before_the_answer_counts() {
    for file in [
        CAREEM_POS.to_owned(),
        CAREEM_POS.replace("ref = \"/details/catalog_id\"\n", ""),
    ] {
        let outside = Outside::new(&file).await;
        let hub = outside.hub().await;
        outside.provider.hold();
        outside.put_menu(&hub).await;
        let call = outside.provider.wait_for(1).await.remove(0);
        let reference = call.json()["catalog_id"].as_str().unwrap().to_owned();
        outside.word(&hub, &reference, "completed", 1).await;
        outside.payloads(EventType::MenuSyncReported, 1).await;
        outside.provider.release();
        outside.payloads(EventType::MenuSynced, 1).await;
        // Said twice, it is not the next one's.
        outside.word(&hub, &reference, "completed", 2).await;
        outside.payloads(EventType::MenuSyncReported, 2).await;
        assert_eq!(outside.provider.calls().len(), 1);
        outside.world.at_end(Ends::default()).await;
    }
}

/// Refused after it was taken: a dead letter that says why. The next menu follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_menu_that_the_provider_refuses_fails_and_the_next_one_follows() {
    let outside = Outside::new(&by_answer(CAREEM_POS)).await;
    let hub = outside.hub().await;
    outside.put_menu(&hub).await;
    outside.put_menu(&hub).await;
    outside.payloads(EventType::MenuSyncAccepted, 1).await;
    let first = outside.references();
    assert_eq!(first.len(), 1, "one at a time");
    // The next one is not taken at once: that the first one was says nothing about it.
    outside.provider.next([Say::status(503)]);
    outside.word(&hub, &first[0], "failed", 1).await;
    let failed = payload(&outside.world.log.wait_for(EventType::MenuSyncFailed, 1).await[0]);
    assert_eq!(
        (&failed["error"]["code"], &failed["givenUp"]),
        (&json!("MENU_REFUSED"), &json!(true))
    );
    assert!(
        failed["error"]["message"]
            .as_str()
            .unwrap()
            .contains("item x has no price")
    );
    outside.payloads(EventType::MenuSyncAccepted, 2).await;
    outside.word(&hub, &outside.references()[1], "completed", 2).await;
    outside.payloads(EventType::MenuSynced, 1).await;
    // Taken up again, the first one is not put over the second.
    outside.world.retry_dead_letters().await;
    let superseded = &outside.payloads(EventType::OrderIgnored, 1).await[0];
    assert_eq!(superseded["reason"], "SUPERSEDED");
    outside.world.at_end(Ends::default().ignored(1)).await;
    assert_eq!(outside.references().len(), 2);
}

/// Nothing is heard of it: after its time it has failed. The hub that waited was killed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_menu_without_a_result_fails_after_its_time_limit() {
    let file = by_answer(CAREEM_POS).replace("wait = \"15m\"", "wait = \"4s\"");
    let outside = Outside::new(&file).await;
    let hub = outside.hub().await;
    // What was said of the one before says nothing of this one.
    outside.put_menu(&hub).await;
    outside.payloads(EventType::MenuSyncAccepted, 1).await;
    outside.word(&hub, &outside.references()[0], "completed", 1).await;
    outside.payloads(EventType::MenuSynced, 1).await;
    outside.put_menu(&hub).await;
    outside.payloads(EventType::MenuSyncAccepted, 2).await;
    hub.kill().await;
    let _hub = outside.hub().await;
    let failed = &outside.payloads(EventType::MenuSyncFailed, 1).await[0];
    assert_eq!(failed["error"]["code"], "MENU_RESULT_TIMEOUT");
    assert_eq!(outside.provider.calls().len(), 2, "each was sent once");
    outside.world.hand_out_again().await;
    outside.world.at_end(Ends::default().dead_lettered(1)).await;
}

/// The word that was said while no hub was there to hear is heard of the provider's next try; the hub that sent the menu is gone.
#[tokio::test(flavor = "multi_thread")]
async fn another_hub_takes_up_a_menu_that_waits() {
    let outside = Outside::new(CAREEM_POS).await;
    let hub = outside.hub().await;
    outside.put_menu(&hub).await;
    outside.payloads(EventType::MenuSyncAccepted, 1).await;
    eventually("it waits in its lane", PATIENCE, async || {
        let lanes = outside.world.lanes().await;
        if lanes.len() == 1 { Ok(()) } else { Err(lanes) }
    })
    .await;
    hub.kill().await;
    let hub = outside.hub().await;
    outside.word(&hub, &outside.references()[0], "completed", 1).await;
    outside.payloads(EventType::MenuSynced, 1).await;
    assert_eq!(outside.provider.calls().len(), 1);
    outside.world.hand_out_again().await;
    outside.world.at_end(Ends::default()).await;
}

/// The next hub has another number of partitions: it knows of the menu that the provider took all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_menu_that_was_taken_is_not_sent_again_by_a_hub_with_other_partitions() {
    let outside = Outside::new(CAREEM_POS).await;
    let hub = outside.hub().await;
    outside.put_menu(&hub).await;
    outside.payloads(EventType::MenuSyncAccepted, 1).await;
    eventually("it waits in its lane", PATIENCE, async || {
        let lanes = outside.world.lanes().await;
        if lanes.len() == 1 { Ok(()) } else { Err(lanes) }
    })
    .await;
    hub.kill().await;
    let others = crate::partitions::other_partitions("careem", "menu:branch-uuid");
    let hub = Hub::start(&outside.settings().set("PARTITIONS", others)).await;
    outside.word(&hub, &outside.references()[0], "completed", 1).await;
    outside.payloads(EventType::MenuSynced, 1).await;
    assert_eq!(outside.provider.calls().len(), 1);
    outside.world.at_end(Ends::default()).await;
}

/// The hub dies after it has noted that the provider took the menu, and before the menu has its lane: whoever takes over
/// still lets the provider's word wake it.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_counts_although_the_lane_was_not_written() {
    let outside = Outside::new(CAREEM_POS).await;
    outside.longest_lane(64).await;
    let hub = outside.hub().await;
    outside.put_menu(&hub).await;
    outside.payloads(EventType::MenuSyncAccepted, 1).await;
    hub.says("lanes not written").await;
    hub.kill().await;
    outside.longest_lane(-1).await;
    let hub = outside.hub().await;
    outside.word(&hub, &outside.references()[0], "completed", 1).await;
    // Its result is due in a quarter of an hour.
    outside.payloads(EventType::MenuSynced, 1).await;
    assert_eq!(outside.provider.calls().len(), 1);
    outside.world.hand_out_again().await;
    outside.world.at_end(Ends::default()).await;
}

/// Where the result is to be asked for, it is, until it is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_polled() {
    let outside = Outside::new(&DELIVERY_HERO.replace("poll_every = \"30s\"", "poll_every = \"300ms\"")).await;
    let hub = outside.hub().await;
    let import = "/v2/chains/chain-1/catalog/import/import-5";
    outside
        .provider
        .next([Say::json(&json!({ "catalogImportId": "import-5" }))]);
    outside
        .provider
        .has(import, &json!({ "status": "in_progress" }).to_string());
    outside.put_menu(&hub).await;
    let calls = outside.provider.wait_for(3).await;
    assert_eq!(
        (calls[0].method.as_str(), calls[0].path.as_str()),
        ("PUT", "/v2/chains/chain-1/catalog")
    );
    assert_eq!(calls[0].json()["vendors"], json!(["store-9"]));
    assert!(calls[1..].iter().all(|call| call.path == import));
    let pauses: Vec<Duration> = calls.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(
        pauses.iter().all(|pause| *pause >= Duration::from_millis(250)),
        "{pauses:?}"
    );
    outside.provider.has(import, &json!({ "status": "done" }).to_string());
    let synced = &outside.payloads(EventType::MenuSynced, 1).await[0];
    assert_eq!(synced["ref"], "import-5");
    outside.world.at_end(Ends::default()).await;
}

/// Sent too soon after the last one of the branch it waits, here by the file's own limit; an outage in between is retried.
#[tokio::test(flavor = "multi_thread")]
async fn menus_of_a_branch_keep_their_distance() {
    let file = CAREEM_POS.replace("every = \"2m\"", "every = \"2s\"");
    let without_result = file.split("# What became of it comes as a webhook.").next().unwrap();
    let outside = Outside::new(without_result).await;
    outside.provider.next([Say::status(503)]);
    let hub = outside.hub().await;
    outside.put_menu(&hub).await;
    outside.put_menu(&hub).await;
    let synced = outside.payloads(EventType::MenuSynced, 2).await;
    let attempts: Vec<&Value> = synced.iter().map(|one| &one["attempts"]).collect();
    assert_eq!(attempts, [2, 1]);
    let calls = outside.provider.calls();
    let statuses: Vec<u16> = calls.iter().map(|call| call.status).collect();
    assert_eq!(statuses, [503, 200, 200]);
    assert!(calls[2].at - calls[1].at >= Duration::from_millis(1950));
    outside.world.at_end(Ends::default()).await;
}

/// The hub that sent the last one is gone; the next one keeps the distance all the same.
#[tokio::test(flavor = "multi_thread")]
async fn menus_keep_their_distance_through_a_takeover() {
    let file = CAREEM_POS.replace("every = \"2m\"", "every = \"6s\"");
    let without_result = file.split("# What became of it comes as a webhook.").next().unwrap();
    let outside = Outside::new(without_result).await;
    let hub = outside.hub().await;
    outside.put_menu(&hub).await;
    outside.payloads(EventType::MenuSynced, 1).await;
    hub.terminate().await;
    let hub = outside.hub().await;
    outside.put_menu(&hub).await;
    outside.payloads(EventType::MenuSynced, 2).await;
    let calls = outside.provider.calls();
    assert!(
        calls[1].at - calls[0].at >= Duration::from_millis(5900),
        "{:?}",
        calls[1].at - calls[0].at
    );
    outside.world.at_end(Ends::default()).await;
}

/// A branch's menu came too soon for the provider: that branch's menus wait, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_menu_that_comes_too_soon_delays_no_status() {
    let outside = Outside::new(CAREEM_POS).await;
    let hub = outside.hub().await;
    outside.provider.on(
        "/catalogs",
        Say {
            retry_after: Some(60),
            ..Say::status(429)
        },
    );
    outside.put_menu(&hub).await;
    outside.payloads(EventType::MenuSyncFailed, 1).await;
    outside.ask(&hub, "CR-meanwhile", "accepted").await;
    let pushed = &outside.payloads(EventType::OrderStatusPushed, 1).await[0];
    assert_eq!(pushed["attempts"], 1);
    outside.payloads(EventType::MenuSyncFailed, 1).await;
}

/// When the time for a result is over, the provider could not be asked: it is given as much time again.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_could_not_be_polled_in_time_is_polled_once_more() {
    let file = DELIVERY_HERO.replace("poll_every = \"30s\"", "poll_every = \"300ms\"");
    let outside = Outside::new(&file.replace("wait = \"30m\"", "wait = \"6s\"")).await;
    let hub = outside.hub().await;
    let import = "/v2/chains/chain-1/catalog/import/import-5";
    outside
        .provider
        .next([Say::json(&json!({ "catalogImportId": "import-5" }))]);
    outside.provider.on(import, Say::status(503));
    outside.put_menu(&hub).await;
    let accepted = &outside.payloads(EventType::MenuSyncAccepted, 1).await[0];
    let due: DateTime<Utc> = accepted["resultDueAt"].as_str().unwrap().parse().unwrap();
    eventually("its time is over, and it was asked for since", PATIENCE, async || {
        let polls = outside.provider.calls().len();
        if Utc::now() > due + TimeDelta::seconds(1) && polls > 3 {
            Ok(())
        } else {
            Err(polls)
        }
    })
    .await;
    outside.provider.on(import, Say::json(&json!({ "status": "done" })));
    outside.payloads(EventType::MenuSynced, 1).await;
    outside.world.at_end(Ends::default()).await;
}
