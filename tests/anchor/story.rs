//! What goes as it should: call data, a contract, and what is covered.

use std::time::Duration;

use meterseal::evidence::anchor::{Order, Wanted};
use meterseal::evidence::evm;
use meterseal::model::note::SignedCheckpoint;
use meterseal::model::{AnchorRefused, AnchorState, Anchored};

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::harness::{ACCOUNT, Mining, Node};
use crate::house::{EVERY, House, config, written};

#[tokio::test]
async fn a_checkpoint_is_anchored_and_proven() {
    for chain_id in [137, 80_002] {
        let node = Node::start(chain_id, Mining::Manual);
        let mut house = House::new(config(chain_id, &[node.url()]));
        let anchor = house.until_final(&node).await;
        let Anchored::Checkpoint { size, note, .. } = &anchor.what else { panic!("{anchor:?}") };
        let checkpoint = note.parse::<SignedCheckpoint>().unwrap().checkpoint;
        let evidence = house.reader().anchor_evidence(anchor.id).await.unwrap().unwrap();
        let shown = evm::check(&evidence).unwrap();
        assert_eq!((shown.chain_id, shown.account, shown.contract), (chain_id, ACCOUNT, None));
        assert_eq!((shown.size, shown.root), (*size, checkpoint.root));
        let inclusion = anchor.inclusion.as_ref().unwrap();
        assert_eq!((shown.height, shown.hash, shown.time), (inclusion.height, inclusion.hash, inclusion.time));
        assert!(inclusion.gas_used <= 30_000, "{inclusion:?}");
        assert_eq!(written(&node).into_values().collect::<Vec<_>>(), [1]);
        house.round().await;
        let status = house.status();
        assert_eq!((status.chain_id, status.account, &status.waiting), (chain_id, Some(ACCOUNT), &None));
        assert!(status.days_left.is_some_and(|days| days > 1_000), "{status:?}");
    }
}

#[tokio::test]
async fn a_contract_is_deployed_and_called() {
    let node = Node::start(137, Mining::Manual);
    let mut house = House::new(config(137, &[node.url()]));
    house.until_final(&node).await;
    let id = house.order(Wanted::Contract).await.unwrap();
    let made = house.until_final(&node).await;
    assert_eq!((made.id, &made.what), (id, &Anchored::Contract));
    let contract = made.made_contract().unwrap();
    house.reconfigure(|config| config.contract = Some(contract));
    house.grow().await;
    let id = house.order(Wanted::Checkpoint).await.unwrap();
    let anchor = house.until_final(&node).await;
    assert_eq!((anchor.id, anchor.contract), (id, Some(contract)));
    let evidence = house.reader().anchor_evidence(id).await.unwrap().unwrap();
    assert_eq!(evm::check(&evidence).unwrap().contract, Some(contract));
    let gas = anchor.inclusion.unwrap().gas_used;
    assert!(gas <= 30_000, "an anchor by event took {gas} gas");
    assert_eq!(house.order(Wanted::Checkpoint).await, Err(AnchorRefused::NothingNew(id)));
}

#[tokio::test]
async fn what_grew_is_covered_by_one_when_its_time_comes() {
    let node = Node::start(137, Mining::Manual);
    let mut house = House::new(config(137, &[node.url()]));
    let first = house.until_final(&node).await;
    for _ in 0..5 {
        house.grow().await;
    }
    house.clock.advance(EVERY / 2);
    house.rounds(3).await;
    assert_eq!(house.newest().await.unwrap().id, first.id, "its time has not come");
    house.clock.advance(EVERY / 2);
    let second = house.until(Some(&node), |anchor| anchor.id > first.id && anchor.state == AnchorState::Final).await;
    let size = |anchor: &meterseal::model::Anchor| match anchor.what {
        Anchored::Checkpoint { size, .. } => size,
        Anchored::Contract => 0,
    };
    assert_eq!(size(&second), size(&first) + 5);
    assert_eq!(written(&node).into_values().collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test]
async fn a_wish_is_answered_whatever_the_nodes_do() {
    // Nobody is there.
    let house = House::new(config(137, &["http://127.0.0.1:9".to_owned()]));
    let ((orders, asked), stop) = (mpsc::channel(1), CancellationToken::new());
    let wishes = async {
        for _ in 0..20 {
            let (reply, answer) = oneshot::channel();
            orders.send(Order { wanted: Wanted::Checkpoint, by: "the test".into(), reply }).await.unwrap();
            assert_eq!(timeout(Duration::from_secs(10), answer).await.unwrap().unwrap(), Ok(1));
        }
        stop.cancel();
    };
    tokio::join!(house.run(asked, stop.clone()), wishes);
}
