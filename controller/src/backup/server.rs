//! The server that is backed up: a connection to it, and what was learned over it.
//!
//! What makes it right: whether the user may do all that a backup does is asked before anything is done.

use std::time::Duration;

use crate::args;
use crate::args::low::Binlogs;
use crate::client::{ClientError, MysqlClient, ServerClient};
use crate::server::grants::Grants;
use crate::server::{
    self, Channel, Dialect, GlobalChange, LockChoice, LockPlan, PositionFrom, Privilege,
    ServerError, Variables, Version,
};
use crate::undo::Change;

/// An answer may take this much longer than the wait for a lock.
const ANSWER_SLACK: Duration = Duration::from_secs(300);
const KILL_BOUND: Duration = Duration::from_secs(10);

pub struct Server {
    pub client: Box<dyn ServerClient>,
    pub version: Version,
    pub dialect: Box<dyn Dialect>,
    pub variables: Variables,
    /// How commits are held for the cut.
    pub plan: LockPlan,
    user: String,
}

/// A replica's positions and its data are only sure to belong together while its appliers have stopped, unless the lock takes care of that. It does not if they share their work
/// out among threads: the position that MySQL tells then is one behind which some transactions are executed already.
fn stops_appliers(plan: &LockPlan, variables: &Variables) -> bool {
    let names = ["replica_parallel_workers", "slave_parallel_workers"];
    let workers = names.into_iter().find_map(|name| variables.get(name));
    let has_workers = workers.is_some_and(|count| count != "0");
    plan.position != PositionFrom::Nowhere && (!plan.holds_positions || has_workers)
}

/// What a cut by `plan` needs beyond the dialect's privileges: it stops the appliers that run, if asked to or as [`stops_appliers`] says.
pub fn applier_privilege(
    dialect: &dyn Dialect,
    client: &mut dyn ServerClient,
    variables: &Variables,
    plan: &LockPlan,
    is_asked: bool,
) -> Result<Option<Privilege>, ClientError> {
    if !is_asked && !stops_appliers(plan, variables) {
        return Ok(None);
    }
    let channels = dialect.channels(client)?;
    let runs = channels.iter().any(|channel| channel.applier_running);
    Ok(runs.then(|| dialect.applier_privilege()))
}

impl Server {
    /// Whether a replica's appliers are stopped for the cut.
    pub fn stops_appliers(&self) -> bool {
        stops_appliers(&self.plan, &self.variables)
    }

    pub fn connect(args: &args::Backup) -> Result<Server, ServerError> {
        let connection = &args.connection;
        let (endpoint, credentials) = (&connection.endpoint, &connection.credentials);
        let bound = args.lock_timeout + ANSWER_SLACK;
        let mut client = MysqlClient::connect(endpoint, credentials, bound)?;
        let version = Version::detect(&mut client)?;
        let dialect = server::dialect(&version)?;
        let variables = Variables::read(&mut client)?;
        let grants = Grants::read(&mut client)?;
        grants.require(&dialect.privileges(&variables))?;
        let plan = plan(dialect.as_ref(), args, &mut client, &variables)?;
        let is_asked = args.safe_slave.is_some();
        let needed = applier_privilege(dialect.as_ref(), &mut client, &variables, &plan, is_asked)?;
        grants.require(needed.as_slice())?;
        for statement in dialect.set_up(args.lock_timeout.as_secs()) {
            client.run(&statement)?;
        }
        Ok(Server {
            client: Box::new(client),
            version,
            dialect,
            variables,
            plan,
            user: credentials.user.clone(),
        })
    }

    /// True if the cut held less than it had to: the first table without transactions may have come between the plan and the lock. Fails if it can't be recovered from.
    pub fn held_too_little(&mut self, args: &args::Backup) -> Result<bool, ServerError> {
        self.dialect.require_redo(self.client.as_mut())?;
        Ok(!self.plan.holds_all_tables && self.plan_again(args)?)
    }

    /// True if an applier runs behind a cut for which all were stopped: whoever started it meanwhile made the positions those of another moment.
    pub fn was_started(&self, channels: &[Channel], args: &args::Backup) -> bool {
        let were_stopped = args.safe_slave.is_some() || self.stops_appliers();
        were_stopped && channels.iter().any(|channel| channel.applier_running)
    }

    /// Settles the plan again: what has to be held may have changed since. True if it has.
    pub fn plan_again(&mut self, args: &args::Backup) -> Result<bool, ServerError> {
        let before = self.plan;
        let client = self.client.as_mut();
        // Settings that decide what to do may have been changed during the base copy.
        self.variables = Variables::read(client)?;
        self.plan = plan(self.dialect.as_ref(), args, client, &self.variables)?;
        Ok(self.plan != before)
    }

    pub fn lock_change(&self) -> Change {
        Change::Lock {
            connection_id: self.client.connection_id(),
            user: self.user.clone(),
        }
    }

    /// Ends the statement that the connection waits in, from another one: a wait for a lock does not notice a signal.
    pub fn interrupter(&self, connection: &args::Connection) -> impl Fn() + Send + 'static {
        let (connection, id) = (connection.clone(), self.client.connection_id());
        move || {
            let (endpoint, credentials) = (&connection.endpoint, &connection.credentials);
            let killed = MysqlClient::connect(endpoint, credentials, KILL_BOUND)
                .and_then(|mut client| client.run(&format!("KILL QUERY {id}")));
            if let Err(error) = killed {
                tracing::debug!(%error, "nothing was interrupted");
            }
        }
    }
}

/// A backup without binlogs can't have its position from them.
fn plan(
    dialect: &dyn Dialect,
    args: &args::Backup,
    client: &mut dyn ServerClient,
    variables: &Variables,
) -> Result<LockPlan, ServerError> {
    dialect.require_redo(client)?;
    let plan = dialect.lock_plan(args.lock, client, variables)?;
    if plan.position == PositionFrom::Binlog && args.binlogs == Binlogs::None {
        return dialect.lock_plan(LockChoice::Ftwrl, client, variables);
    }
    Ok(plan)
}

impl From<&GlobalChange> for Change {
    fn from(change: &GlobalChange) -> Change {
        Change::GlobalVariable {
            name: change.name.into(),
            before: change.before.clone(),
            after: change.after.clone(),
        }
    }
}
