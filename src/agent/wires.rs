//! Through these a config reaches the parts that run.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Config;
use crate::evidence::anchor;
use crate::evidence::log::Running;
use crate::model::Meter;
use crate::{alerts, blocks, evidence, sources, upstream, web};

/// One for each part.
pub struct Wires {
    pub site: watch::Sender<Arc<web::Site>>,
    pub sources: watch::Sender<Arc<sources::Config>>,
    pub blocks: watch::Sender<Arc<blocks::Config>>,
    pub alerts: watch::Sender<Arc<alerts::Config>>,
    pub meters: watch::Sender<Arc<Vec<Meter>>>,
    pub evidence: watch::Sender<Arc<evidence::Config>>,
    pub anchor: watch::Sender<Arc<anchor::Part>>,
    pub upstream: watch::Sender<Arc<upstream::Config>>,
    pub exports: watch::Sender<Arc<web::Exports>>,
    pub problems: watch::Sender<Arc<Vec<String>>>,
    /// All of it, for whoever is to tell what runs.
    pub config: watch::Sender<Arc<Config>>,
    /// The config that the log is to name.
    pub running: watch::Sender<Option<Running>>,
}

impl Wires {
    pub fn of(config: &Config, problems: Vec<String>) -> Self {
        Self {
            site: watch::Sender::new(Arc::new(config.site.clone())),
            sources: watch::Sender::new(Arc::new(config.sources.clone())),
            blocks: watch::Sender::new(Arc::new(config.blocks.clone())),
            alerts: watch::Sender::new(Arc::new(config.alerts.clone())),
            meters: watch::Sender::new(Arc::new(config.meters().to_vec())),
            evidence: watch::Sender::new(Arc::new(config.evidence.clone())),
            anchor: watch::Sender::new(Arc::new(config.anchor.clone())),
            upstream: watch::Sender::new(Arc::new(config.upstream.clone())),
            exports: watch::Sender::new(Arc::new(config.exports.clone())),
            problems: watch::Sender::new(Arc::new(problems)),
            config: watch::Sender::new(Arc::new(config.clone())),
            running: watch::Sender::new(None),
        }
    }

    /// Tells those parts whose config differs; gives their names. Blocks learn of a new meter before it is read.
    pub fn tell(&self, new: &Config) -> Vec<String> {
        let told = [
            ("site", replaced(&self.site, &new.site)),
            ("blocks", replaced(&self.blocks, &new.blocks)),
            ("meters", replaced(&self.meters, &new.blocks.meters)),
            ("alerts", replaced(&self.alerts, &new.alerts)),
            // Two views of one part: what is asked, and what is shown.
            ("exports", replaced(&self.evidence, &new.evidence) | replaced(&self.exports, &new.exports)),
            ("anchor", replaced(&self.anchor, &new.anchor)),
            ("upstream", replaced(&self.upstream, &new.upstream)),
            ("sources", replaced(&self.sources, &new.sources)),
        ];
        told.into_iter().filter(|(_, differs)| *differs).map(|(part, _)| part.to_owned()).collect()
    }
}

fn replaced<T: PartialEq + Clone>(wire: &watch::Sender<Arc<T>>, new: &T) -> bool {
    wire.send_if_modified(|current| {
        let differs = **current != *new;
        if differs {
            *current = Arc::new(new.clone());
        }
        differs
    })
}
