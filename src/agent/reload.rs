//! Reading the config again while the parts run: each follows what changed for it, and a bad config changes nothing.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::admin::Reloaded;
use super::{Agent, edits};
use crate::config::{self, Checked, Config, Fault, Files};
use crate::evidence::log::Running;
use crate::model::{Alert, AlertKind, Digest};
use crate::store::StoreError;
use crate::web;

/// Changed meters are shown within this time.
const SHOWN: Duration = Duration::from_secs(2);
/// Alerts that one look takes in; open ones are few.
const OPEN_ALERTS: usize = 1_000;

impl Agent {
    /// Reads the config again and tells each part what changed for it. A bad one is refused, and what runs goes on.
    pub async fn reload(&mut self) -> Reloaded {
        let Some(path) = &self.path else {
            return Reloaded { faults: vec!["this daemon has no config file".to_owned()], ..Reloaded::default() };
        };
        self.views.certificate.look();
        let (path, now) = (path.clone(), self.clock.now());
        let load = tokio::task::spawn_blocking(move || config::load(&path, now).1);
        let Ok(Checked { config, faults, warnings, kept, shown, .. }) = load.await else {
            return Reloaded { faults: vec!["the config could not be read".to_owned()], ..Reloaded::default() };
        };
        for warning in &warnings {
            warn!("{warning}");
        }
        self.show_config(&shown, &warnings, &faults);
        let Some(config) = config else {
            self.refused(&faults).await;
            self.own_problems = problems(&self.running, &faults);
            self.show_problems();
            return Reloaded { faults: faults.iter().map(ToString::to_string).collect(), ..Reloaded::default() };
        };
        self.apply(config, &kept).await
    }

    async fn apply(&mut self, of_files: Config, kept: &Files) -> Reloaded {
        let mut reloaded = Reloaded::default();
        let new = match edits::merged(of_files.clone(), &self.reader, self.clock.now()).await {
            Ok((new, left_out)) => {
                self.left_out = left_out;
                new
            }
            Err(error) => {
                let why = format!("what was made through the API cannot be read: {error:#}");
                return Reloaded { faults: vec![why], ..reloaded };
            }
        };
        self.of_files = of_files;
        let mut later = |what: &str, differs: bool| {
            if differs {
                reloaded.at_next_start.push(what.to_owned());
            }
        };
        later("site.id", new.site_id != self.running.site_id);
        later("store.path", new.store.path != self.running.store.path);
        reloaded.changed = self.wires.tell(&new);
        // The certificate lies in the store, which does not move.
        let mut web = web::Config { folder: self.running.web.folder.clone(), ..new.web.clone() };
        if web != self.running.web {
            self.views.gate.set_idle(web.session_idle);
            let rest = web::Config { session_idle: self.running.web.session_idle, ..web.clone() };
            match if rest == self.running.web { Ok(()) } else { self.move_web(&web).await } {
                Ok(()) => reloaded.changed.push("web".to_owned()),
                Err(error) => {
                    error!("the page stays where it is until the next start: {error:#}");
                    reloaded.at_next_start.push("web.listen".to_owned());
                    web = web::Config { session_idle: web.session_idle, ..self.running.web.clone() };
                }
            }
        }
        let path = self.running.store.path.clone();
        let store = crate::store::Config { path, ..new.store.clone() };
        if store != self.running.store {
            self.store.reconfigure(&store);
            reloaded.changed.push("store".to_owned());
        }
        // What waits for the next start still differs at the next reload, and is told again.
        let site_id = self.running.site_id.clone();
        self.running = Config { store, site_id, web, ..new };
        self.wires.config.send_replace(Arc::new(self.running.clone()));
        self.meters_shown().await;
        self.own_problems = problems(&self.running, &[]);
        self.own_problems.extend(
            reloaded.at_next_start.iter().map(|key| format!("{key} has changed: restart meterseal to apply it")),
        );
        self.show_problems();
        self.taken(kept).await;
        info!(changed = ?reloaded.changed, at_next_start = ?reloaded.at_next_start, "config read again");
        reloaded
    }

    /// Simulators are put beside the meters elsewhere: whoever asked for a change sees it afterwards.
    pub(super) async fn meters_shown(&self) {
        let mut shown = self.views.meters.clone();
        let is_shown = shown.wait_for(|shown| shown.starts_with(&self.running.blocks.meters));
        if timeout(SHOWN, is_shown).await.is_err() {
            warn!("the changed meters are not shown yet");
        }
    }

    /// Listens at the new address before the old one is given up, or goes on at the old one.
    async fn move_web(&mut self, config: &web::Config) -> anyhow::Result<()> {
        let door = if config.listen == self.running.web.listen {
            self.door.under(config)?
        } else {
            web::bind(config).await.with_context(|| format!("cannot listen on {}", config.listen))?
        };
        let (page, views) = (door.page(), self.views.clone());
        self.door = door.clone();
        info!(%page, "the page moves");
        let web = |stop| async move { Ok(web::run(door, views, stop).await?) };
        self.stages.replace("web", web).await;
        self.page.send_replace(page);
        Ok(())
    }

    pub(super) fn show_problems(&mut self) {
        let mut all = self.own_problems.clone();
        all.extend(self.left_out.clone());
        all.extend(self.webhook.borrow_and_update().clone());
        all.extend(self.mark.borrow_and_update().clone());
        all.extend(self.sealing.borrow_and_update().map(str::to_owned));
        all.extend(self.certificate.borrow_and_update().problem.clone());
        self.wires.problems.send_replace(Arc::new(all));
    }

    /// A good config runs: it is kept, and alerts of a refused one end.
    pub(super) async fn taken(&self, kept: &Files) {
        let ended = async {
            let kept = kept.to_kept();
            let meters = self.running.meters().iter().map(|meter| meter.id.clone()).collect();
            let is_sent = !self.running.upstream.upstreams.is_empty();
            let running = Running { config_sha256: Digest::of(kept.as_bytes()), meters, is_sent };
            self.ledger.save_config(kept).await?;
            self.wires.running.send_replace(Some(running));
            for alert in self.reader.alerts(true, OPEN_ALERTS).await? {
                if alert.kind == AlertKind::ConfigRefused {
                    self.ledger.clear_alert(alert.id, self.clock.now()).await?;
                }
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = ended.await {
            error!(%error, "the config runs, and could not be kept as the last good one");
        }
    }

    /// The config on disk is bad: one alert stands until a good one comes.
    pub(super) async fn refused(&self, faults: &[Fault]) {
        for fault in faults {
            error!("config refused: {fault}");
        }
        let now = self.clock.now();
        let raised = async {
            let open = self.reader.alerts(true, OPEN_ALERTS).await?;
            if open.iter().any(|alert| alert.kind == AlertKind::ConfigRefused) {
                return Ok(());
            }
            let text = refusal(faults);
            let kind = AlertKind::ConfigRefused;
            let alert = Alert::new(kind, None, now, now, text);
            self.ledger.raise(alert).await.map(|_| ())
        };
        let raised: Result<(), StoreError> = raised.await;
        if let Err(error) = raised {
            error!(%error, "the alert of a refused config could not be kept");
        }
    }
}

/// What a person should know of the parts, for the page and `status`.
pub fn problems(config: &Config, refused: &[Fault]) -> Vec<String> {
    let mut problems = config.off.clone();
    if !refused.is_empty() {
        problems.push(refusal(refused));
    }
    problems
}

fn refusal(faults: &[Fault]) -> String {
    let first = faults.first().map(ToString::to_string).unwrap_or_default();
    let more = if faults.len() > 1 { format!(" (and {} more)", faults.len() - 1) } else { String::new() };
    // A fault may end with a question: did you mean …?
    let end = if more.is_empty() && first.ends_with('?') { "" } else { "." };
    format!("The config on disk is refused and the last good one runs: {first}{more}{end} See `meterseal check`.")
}
