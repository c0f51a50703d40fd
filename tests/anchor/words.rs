//! What an anchor waits for is told as it is now, with what to do.

use alloy_primitives::address;
use meterseal::evidence::anchor::fees;
use meterseal::model::{AnchorState, WaitReason};

use crate::faults::waits_for;
use crate::harness::{Mining, Node};
use crate::house::{House, config};

#[tokio::test]
async fn a_new_config_renews_what_it_waits_for() {
    let node = Node::start(137, Mining::Manual);
    let first = address!("00000000000000000000000000000000000000d1");
    let second = address!("00000000000000000000000000000000000000d2");
    let mut house = House::new(config(137, &[node.url()]));
    house.reconfigure(|config| config.contract = Some(first));
    let before = house.until(None, waits_for(WaitReason::Contract)).await.waiting.unwrap();
    assert!(before.text.contains(&first.to_string()), "{}", before.text);
    house.reconfigure(|config| config.contract = Some(second));
    house.round().await;
    let after = house.newest().await.unwrap().waiting.unwrap();
    assert!(after.text.contains(&second.to_string()), "{}", after.text);
    assert_eq!((after.reason, after.since), (WaitReason::Contract, before.since), "it waits for the same all the time");
}

#[tokio::test]
async fn a_budget_below_one_anchor_is_not_waited_for() {
    let node = Node::start(137, Mining::Manual);
    let mut house = House::new(config(137, &[node.url()]));
    house.reconfigure(|config| config.daily_budget = fees::coins("0.0001").unwrap());
    let waiting = house.until(Some(&node), waits_for(WaitReason::Budget)).await.waiting.unwrap();
    let (_, proposed) = waiting.text.split_once("raise daily_budget to at least ").unwrap();
    assert!(!waiting.text.contains("comes free"), "{}", waiting.text);
    let proposed = fees::coins(proposed.split(' ').next().unwrap()).unwrap();
    house.reconfigure(|config| config.daily_budget = proposed);
    house.until(Some(&node), |anchor| anchor.state == AnchorState::Final).await;
}
