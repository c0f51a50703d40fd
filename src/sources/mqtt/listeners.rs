//! The brokers that are listened to, as the config names them.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Broker, Outside, Report, run};
use crate::clock::Clock;
use crate::model::{BrokerStatus, SourcesStatus};
use crate::sources::tasks::Tasks;
use crate::store::Ingest;

pub struct Listeners {
    ingest: Ingest,
    clock: Clock,
    running: Tasks<(Arc<Broker>, watch::Receiver<Report>)>,
    /// Attempts of brokers that are listened to no more, so that the count never goes back.
    past_attempts: u64,
}

impl Listeners {
    pub fn new(ingest: Ingest, clock: Clock) -> Self {
        Self { ingest, clock, running: Tasks::default(), past_attempts: 0 }
    }

    /// Leaves what is no longer wanted as it is, then begins what is new. A changed broker is left first: it takes two
    /// connections of one client for one that was lost.
    pub async fn follow(&mut self, brokers: &[Broker]) {
        let gone = self.running.end_all_but(|_, (broker, _)| brokers.iter().any(|wanted| *wanted == **broker)).await;
        self.past_attempts += gone.iter().map(|(_, report)| report.borrow().attempts).sum::<u64>();
        for broker in brokers {
            if !self.running.has(&broker.name) {
                let before = gone.iter().find(|(before, _)| before.name == broker.name);
                self.begin(broker, before.map(|(_, report)| report.borrow().broker.clone()));
            }
        }
    }

    fn begin(&mut self, broker: &Broker, before: Option<BrokerStatus>) {
        let broker = Arc::new(broker.clone());
        let report = Report::new(&broker, self.clock.now());
        let report = match before {
            Some(before) => report.going_on(&before),
            None => report,
        };
        let (tell, report) = watch::channel(report);
        let (ingest, clock) = (self.ingest.clone(), self.clock.clone());
        self.running.begin(broker.name.clone(), (broker.clone(), report), |stop| {
            run(broker, Outside { ingest, clock, report: tell, stop })
        });
    }

    /// As [`Tasks::watch`].
    pub async fn watch(&mut self) {
        self.running.watch().await;
    }

    /// Adds what the brokers tell.
    pub fn tell(&self, status: &mut SourcesStatus) {
        status.attempts += self.past_attempts;
        for (name, (broker, report)) in self.running.iter() {
            let report = report.borrow();
            status.attempts += report.attempts;
            status.brokers.insert(name.clone(), report.broker.clone());
            let meters = broker.meters.iter().zip(&report.meters);
            status.meters.extend(meters.map(|(meter, known)| (meter.id.clone(), known.clone())));
        }
    }
}
