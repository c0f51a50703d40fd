//! What a transaction may cost. Pure: figures in, a price or the reason against it out. All amounts are wei.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::model::{Anchor, Anchored, Attempt, Timestamp};

const GWEI: u128 = 1_000_000_000;
/// Polygon's nodes take no tip below 25 gwei, older ones none below 30.
const POLYGON_TIP: u128 = 30 * GWEI;
const POLYGON_LEAST_TIP: u128 = 25 * GWEI;
/// Polygon and its test net.
const POLYGON: [u64; 2] = [137, 80_002];

/// No ceiling of whole gwei below this ever lets a transaction through: the base fee comes on top of the tip.
pub fn least_ceiling(chain_id: u64) -> u64 {
    if POLYGON.contains(&chain_id) { whole_gwei(POLYGON_TIP) + 1 } else { 1 }
}

/// Rounded up, as `max_fee_gwei` is written.
pub fn whole_gwei(wei: u128) -> u64 {
    u64::try_from(wei.div_ceil(GWEI)).unwrap_or(u64::MAX)
}

/// Rounded up to an amount as `daily_budget` is written, so that it suffices.
pub fn enough(wei: u128, chain_id: u64) -> Coin {
    let step = GWEI * GWEI / 10_000;
    Coin { wei: wei.div_ceil(step).saturating_mul(step), chain_id }
}
/// What is spent is counted over this time.
pub const DAY: Duration = Duration::from_secs(86_400);

/// What the chain and the account are like at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Market {
    /// The newest height.
    pub height: u64,
    pub base_fee: u128,
    /// As the node proposes it.
    pub tip: u128,
    /// Transactions of the account that are mined.
    pub nonce: u64,
    /// Those, and the ones that wait in the node's pool.
    pub pending: u64,
    pub balance: u128,
}

/// What may be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub chain_id: u64,
    /// For each unit of gas.
    pub max_fee: u128,
    pub budget: Budget,
}

/// What is left of the daily budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub daily: u128,
    pub left: u128,
    /// When more of it comes free.
    pub more: Option<Timestamp>,
}

/// For each unit of gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    pub max_fee: u128,
    pub tip: u128,
}

/// What stands against a transaction at present: it would need `least` for each unit of gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooDear {
    Ceiling { least: u128 },
    Budget { least: u128 },
    Funds { least: u128 },
}

/// The price of a first attempt: twice the base fee, so that it stays good while that rises, as far as the limits go.
pub fn fresh(market: &Market, gas_limit: u64, limits: &Limits) -> Result<Price, TooDear> {
    let tip = tip(market.tip, limits.chain_id);
    capped(market, tip, 0, gas_limit, limits)
}

/// The price of an attempt in the place of `before`. Nodes take one that offers 10 % more of both; some round up.
pub fn dearer(before: &Attempt, market: &Market, limits: &Limits) -> Result<Price, TooDear> {
    let tip = tip(market.tip, limits.chain_id).max(an_eighth_more(before.tip));
    capped(market, tip, an_eighth_more(before.max_fee), before.gas_limit, limits)
}

fn capped(market: &Market, tip: u128, floor: u128, gas_limit: u64, limits: &Limits) -> Result<Price, TooDear> {
    let least = market.base_fee.saturating_add(tip).max(floor);
    let wanted = market.base_fee.saturating_mul(2).saturating_add(tip).max(floor);
    let gas = u128::from(gas_limit.max(1));
    if limits.max_fee < least {
        return Err(TooDear::Ceiling { least });
    }
    let (by_funds, by_budget) = (market.balance / gas, limits.budget.left / gas);
    if by_funds < least {
        return Err(TooDear::Funds { least });
    }
    if by_budget < least {
        return Err(TooDear::Budget { least });
    }
    Ok(Price { max_fee: wanted.min(limits.max_fee).min(by_funds).min(by_budget), tip })
}

fn tip(proposed: u128, chain_id: u64) -> u128 {
    if POLYGON.contains(&chain_id) { proposed.max(POLYGON_TIP) } else { proposed }
}

fn an_eighth_more(fee: u128) -> u128 {
    fee.saturating_add(fee.div_ceil(8)).max(1)
}

/// Whether somebody mines it at this base fee.
pub fn is_minable(attempt: &Attempt, base_fee: u128, chain_id: u64) -> bool {
    let least = if POLYGON.contains(&chain_id) { POLYGON_LEAST_TIP.min(attempt.tip) } else { 0 };
    base_fee.saturating_add(least) <= attempt.max_fee
}

/// The most that an attempt can cost.
pub fn worst(attempt: &Attempt) -> u128 {
    attempt.max_fee.saturating_mul(attempt.gas_limit.into())
}

/// What was paid for a mined anchor.
pub fn paid(anchor: &Anchor) -> Option<u128> {
    let inclusion = anchor.inclusion.as_ref()?;
    Some(inclusion.price.saturating_mul(inclusion.gas_used.into()))
}

/// A day to both sides: when a clock that was set tells a time of before, it may lie ahead.
pub fn around(now: Timestamp) -> RangeInclusive<Timestamp> {
    now.minus(DAY).plus_millis(1)..=now.plus(DAY)
}

/// What is left of `daily` for the anchor with the id `except`, whose own attempts are what it is left for. The chain and
/// this gateway may not agree on the time, and the gateway's clock may have been set since: what was paid counts when
/// either of them says that it was lately.
pub fn budget<'a>(daily: u128, anchors: impl Iterator<Item = &'a Anchor>, except: u64, now: Timestamp) -> Budget {
    let lately = around(now);
    let (mut spent, mut held) = (Vec::new(), 0_u128);
    for anchor in anchors {
        spent.extend(anchor.failed.iter().map(|failed| ([Some(failed.at), None], failed.fee)));
        if anchor.state.is_outstanding() {
            if anchor.id != except {
                held = held.saturating_add(anchor.attempts.iter().map(worst).max().unwrap_or(0));
            }
        } else if let (Some(inclusion), Some(fee)) = (&anchor.inclusion, paid(anchor)) {
            let signed = anchor.attempts.last().map(|attempt| attempt.signed);
            spent.push(([Some(inclusion.time), signed], fee));
        }
    }
    let (mut sum, mut more) = (held, None);
    for (times, fee) in spent {
        if let Some(at) = times.into_iter().flatten().filter(|at| lately.contains(at)).max() {
            sum = sum.saturating_add(fee);
            let free = at.plus(DAY);
            more = Some(more.map_or(free, |more: Timestamp| more.min(free)));
        }
    }
    Budget { daily, left: daily.saturating_sub(sum), more }
}

/// How many anchors the balance pays, each as dear as the last ones were.
pub fn anchors_left(balance: u128, newest: &[Anchor], market: Option<&Market>, chain: u64) -> Option<u128> {
    // A contract is dear, and made once.
    let counts = |anchor: &&Anchor| anchor.chain_id == chain && anchor.what != Anchored::Contract;
    let fees: Vec<u128> = newest.iter().filter(counts).filter_map(paid).take(10).collect();
    let fee = match u128::try_from(fees.len()) {
        Ok(count @ 1..) => fees.iter().fold(0_u128, |sum, fee| sum.saturating_add(*fee)) / count,
        _ => {
            let market = market?;
            market.base_fee.saturating_add(tip(market.tip, chain)).saturating_mul(ANCHOR_GAS)
        }
    };
    Some(balance / fee.max(1))
}

/// How long so many anchors last at one for each `every`: what was anchored by hand was wanted once, and is no rate.
pub fn days(anchors: u128, every: Duration) -> u64 {
    u64::try_from(anchors.saturating_mul(every.as_millis()) / DAY.as_millis()).unwrap_or(u64::MAX)
}

/// What an anchor takes, at most.
const ANCHOR_GAS: u128 = 30_000;

/// A price as people write it.
pub struct Gwei(pub u128);

impl fmt::Display for Gwei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        decimal(f, self.0, GWEI, 3)?;
        f.write_str(" gwei")
    }
}

/// An amount in the chain's own coin.
pub struct Coin {
    pub wei: u128,
    pub chain_id: u64,
}

impl fmt::Display for Coin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        decimal(f, self.wei, GWEI * GWEI, 6)?;
        f.write_str(if POLYGON.contains(&self.chain_id) { " POL" } else { " of the chain's coin" })
    }
}

/// Rounded down to so many places, without zeros at the end.
fn decimal(f: &mut fmt::Formatter<'_>, amount: u128, unit: u128, places: u32) -> fmt::Result {
    let scale = 10_u128.pow(places);
    let rest = amount % unit / (unit / scale);
    let text = format!("{:0width$}", rest, width = usize::try_from(places).unwrap_or(0));
    match text.trim_end_matches('0') {
        "" => write!(f, "{}", amount / unit),
        rest => write!(f, "{}.{rest}", amount / unit),
    }
}

/// Wei from a decimal text such as `0.5`, of a coin with 18 places.
pub fn coins(text: &str) -> Option<u128> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(rest) || rest.len() > 18 {
        return None;
    }
    let whole = whole.parse::<u128>().ok()?.checked_mul(GWEI * GWEI)?;
    whole.checked_add(format!("{rest:0<18}").parse().ok()?)
}

pub fn gwei(count: u64) -> u128 {
    u128::from(count) * GWEI
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::example::{self, NOW};
    use super::*;
    use crate::model::{AnchorState, Failed};

    fn market(base_fee: u128, tip: u128) -> Market {
        Market { height: 100, base_fee, tip, nonce: 0, pending: 0, balance: u128::MAX }
    }

    fn limits(chain_id: u64, max_fee: u128) -> Limits {
        Limits { chain_id, max_fee, budget: Budget { daily: u128::MAX, left: u128::MAX, more: None } }
    }

    #[test]
    fn polygon_has_a_least_tip_and_other_chains_have_not() {
        let market = market(20 * GWEI, GWEI);
        let price = |chain| fresh(&market, 30_000, &limits(chain, 300 * GWEI)).unwrap();
        assert_eq!(price(137), Price { max_fee: 70 * GWEI, tip: 30 * GWEI });
        assert_eq!(price(80_002), price(137));
        assert_eq!(price(1), Price { max_fee: 41 * GWEI, tip: GWEI });
    }

    #[test]
    fn each_limit_names_itself() {
        let (market, mut limits) = (market(20 * GWEI, 0), limits(137, 49 * GWEI));
        assert_eq!(fresh(&market, 1, &limits), Err(TooDear::Ceiling { least: 50 * GWEI }));
        limits.max_fee = 60 * GWEI;
        assert_eq!(fresh(&market, 1, &limits).unwrap().max_fee, 60 * GWEI, "less than twice the base fee will do");
        limits.budget.left = 1_099 * GWEI;
        assert_eq!(fresh(&market, 20, &limits).unwrap().max_fee, 1_099 * GWEI / 20);
        limits.budget.left = 999 * GWEI;
        assert_eq!(fresh(&market, 20, &limits), Err(TooDear::Budget { least: 50 * GWEI }));
        let poor = Market { balance: 999 * GWEI, ..market };
        assert_eq!(fresh(&poor, 20, &limits), Err(TooDear::Funds { least: 50 * GWEI }));
    }

    proptest! {
        #[test]
        fn a_price_keeps_within_all_limits(
            base in 0..2_000_u128, tip in 0..100_u128, ceiling in 1..1_000_u128, left in 0..u128::from(u64::MAX),
            balance in 0..u128::from(u64::MAX), gas in 21_000..100_000_u64,
            chain in prop::sample::select(vec![1, 137, 80_002]),
        ) {
            let market = Market { balance, ..market(base * GWEI / 7, tip * GWEI) };
            let mut limits = limits(chain, ceiling * GWEI);
            limits.budget.left = left;
            let Ok(price) = fresh(&market, gas, &limits) else { return Ok(()) };
            let worst = price.max_fee * u128::from(gas);
            prop_assert!(price.max_fee <= limits.max_fee && worst <= left && worst <= balance);
            prop_assert!(price.max_fee >= market.base_fee + price.tip);
            let before = Attempt { max_fee: price.max_fee, tip: price.tip, gas_limit: gas, ..example::attempt(0) };
            prop_assert!(is_minable(&before, market.base_fee, chain));
            if let Ok(next) = dearer(&before, &market, &limits) {
                let more = |new: u128, old: u128| new * 1_000 >= old * 1_125;
                prop_assert!(more(next.max_fee, before.max_fee) && more(next.tip, before.tip));
                prop_assert!(next.max_fee <= limits.max_fee && next.max_fee * u128::from(gas) <= left);
            }
        }

        #[test]
        fn coins_read_as_they_are_shown(wei in 0..u128::MAX / 2) {
            let wei = wei - wei % 1_000_000_000_000;
            let shown = Coin { wei, chain_id: 137 }.to_string();
            prop_assert_eq!(coins(shown.strip_suffix(" POL").unwrap()), Some(wei));
        }
    }

    #[test]
    fn amounts_read_as_people_write_them() {
        assert_eq!(coins("0.5"), Some(GWEI * GWEI / 2));
        assert_eq!((coins("3"), coins("0")), (Some(3 * GWEI * GWEI), Some(0)));
        for bad in ["", ".5", "5.", "-1", "+1", "1e3", "0,5", "0.1234567890123456789", "340282366920938463464"] {
            assert_eq!(coins(bad), None, "{bad}");
        }
        assert_eq!(Gwei(1_500_000_000).to_string(), "1.5 gwei");
        assert_eq!(Coin { wei: 1_234_567_890_123_456_789, chain_id: 137 }.to_string(), "1.234567 POL");
    }

    #[test]
    fn the_budget_counts_what_is_paid_failed_and_may_still_be_paid() {
        let hour = Duration::from_secs(3_600);
        let mut mined = example::included(1);
        mined.inclusion.as_mut().unwrap().time = NOW.minus(hour);
        let fee = paid(&mined).unwrap();
        let mut old = example::included(2);
        old.inclusion.as_mut().unwrap().time = NOW.minus(DAY);
        old.attempts[0].signed = NOW.minus(DAY);
        let mut failed = example::queued(3);
        failed.failed.push(Failed { transaction: example::hash(9), height: 5, at: NOW.minus(hour * 2), fee: 7 });
        let mut sent = example::sent(4);
        sent.attempts.push(Attempt { max_fee: sent.attempts[0].max_fee * 2, ..example::attempt(4) });
        let all = [mined, old, failed, sent.clone()];
        let held = worst(&sent.attempts[1]);
        let left = |except| budget(u128::MAX, all.iter(), except, NOW).left;
        assert_eq!(u128::MAX - left(0), fee + 7 + held, "one of its attempts is mined, not both");
        assert_eq!(u128::MAX - left(4), fee + 7, "what it holds itself is its own");
        assert_eq!(budget(1, all.iter(), 0, NOW).more, Some(NOW.minus(hour * 2).plus(DAY)));
        let gone = Anchor { state: AnchorState::Reorganised, ..all[0].clone() };
        assert_eq!(u128::MAX - budget(u128::MAX, [&gone].into_iter(), 0, NOW).left, worst(&gone.attempts[0]));
    }

    #[test]
    fn a_budget_holds_whatever_the_clock_was_set_to() {
        let days = |count: u64| DAY * u32::try_from(count).unwrap();
        let paid_at = |chain, signed| {
            let mut mined = example::included(1);
            mined.inclusion.as_mut().unwrap().time = chain;
            mined.attempts[0].signed = signed;
            let left = budget(u128::MAX, [&mined].into_iter(), 0, NOW);
            (u128::MAX - left.left > 0, left.more)
        };
        let (before, ahead) = (NOW.minus(days(400)), NOW.plus(days(400)));
        assert_eq!(paid_at(before, NOW), (true, Some(NOW.plus(DAY))), "the gateway is ahead of the chain");
        assert_eq!(paid_at(ahead, NOW), (true, Some(NOW.plus(DAY))), "the gateway is behind it");
        assert_eq!(paid_at(NOW, before), (true, Some(NOW.plus(DAY))), "it was behind, and was set right");
        assert_eq!(paid_at(NOW, ahead), (true, Some(NOW.plus(DAY))), "it was ahead, and was set right");
        assert_eq!(paid_at(ahead, ahead), (false, None), "it was set back behind all that it knows");
        assert_eq!(paid_at(before, before), (false, None));
    }

    #[test]
    fn days_are_by_what_anchors_cost_or_would_cost() {
        let anchors = [example::included(1), example::included(2)];
        let fee = paid(&anchors[0]).unwrap();
        let every = Duration::from_secs(6 * 3_600);
        let left = |balance, newest: &[Anchor]| anchors_left(balance, newest, None, 137);
        assert_eq!(left(fee * 41, &anchors), Some(41));
        assert_eq!((days(41, every), days(3, every), days(u128::MAX, every)), (10, 0, u64::MAX));
        let mut made = Anchor { what: Anchored::Contract, ..anchors[0].clone() };
        made.inclusion.as_mut().unwrap().gas_used *= 40;
        let [one, other] = anchors.clone();
        assert_eq!(left(fee * 41, &[made, one, other]), Some(41), "a contract is made once");
        assert_eq!(anchors_left(fee * 41, &anchors, None, 80_002), None, "another chain has other prices");
        let market = market(20 * GWEI, 0);
        assert_eq!(anchors_left(50 * GWEI * 30_000 * 8, &[], Some(&market), 137), Some(8));
    }

    #[test]
    fn what_is_proposed_suffices() {
        assert_eq!((whole_gwei(31 * GWEI), whole_gwei(31 * GWEI + 1)), (31, 32));
        assert_eq!(enough(896_000 * GWEI, 137).to_string(), "0.0009 POL");
        assert_eq!(enough(900_000 * GWEI, 137).to_string(), "0.0009 POL");
        assert_eq!((least_ceiling(137), least_ceiling(80_002), least_ceiling(1)), (31, 31, 1));
        let lowest = limits(137, gwei(least_ceiling(137)));
        assert!(fresh(&market(GWEI, 0), 30_000, &lowest).is_ok());
        let below = limits(137, gwei(least_ceiling(137) - 1));
        assert!(fresh(&market(1, 0), 30_000, &below).is_err());
    }
}
