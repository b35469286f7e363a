//! A client: submits actions and waits for them, now and then changes its mind, and tries again what came to nothing for
//! reasons of the pool's, as Bazel does with UNAVAILABLE (dbuild's own initiator would run the action itself).

use std::time::Duration;

use super::clock::ms;
use super::network::{ConnId, End, Host};
use super::stage::{Happening, Stage};
use super::wire::{Action, Call, Content, Ended, Message, Operation};

/// `CONNECT_TIMEOUT` of `cli/src/initiator/remote`.
const CONNECT: Duration = ms(3_000);

#[derive(Clone, Copy, Debug)]
pub enum Timer {
    ConnectTimeout(ConnId),
    /// A new action.
    Submit,
    Retry {
        job: usize,
    },
    /// The client changes its mind about a job.
    Waver {
        job: usize,
    },
}

/// What a client does about a job while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Wait,
    Cancel,
    /// Hang up, and ask for the same operation a little later.
    ComeBack,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// It is being waited for, by this call.
    Called(Call),
    /// Something is to be tried later.
    Resting,
    /// It has its answer, or nobody wants it any more.
    Over,
}

#[derive(Debug)]
struct Job {
    action: Action,
    plan: Plan,
    state: State,
    operation: Option<Operation>,
}

/// How a client's actions are.
#[derive(Clone, Debug)]
pub struct Habits {
    pub user: u64,
    /// Waits between two actions, in ms at most.
    pub pause: u64,
    /// The longest action, in ms.
    pub length: u64,
    /// How many actions it has in flight at most, as `-j` says.
    pub width: usize,
    /// What it says that its actions take, in percent of what they do take.
    pub guess: u64,
    /// Different actions in the pool's world; equal ones are merged.
    pub contents: u64,
    /// In a hundred: actions that may not be merged, that need a kind of helper, that have a priority.
    pub alone: u64,
    pub picky: u64,
    pub urgent: u64,
    /// In a hundred: jobs that are cancelled, or left and taken up again.
    pub fickle: u64,
}

pub struct Client {
    pub which: usize,
    pub host: Host,
    pub up: bool,
    pub habits: Habits,
    connection: Option<ConnId>,
    established: bool,
    jobs: Vec<Job>,
    last_call: Call,
}

impl Client {
    pub fn new(stage: &mut Stage, which: usize, habits: Habits) -> Client {
        let delay = if stage.rng.chance(20) { 30..200 } else { 0..3 };
        let client = Client {
            which,
            host: stage.net.join(delay),
            up: true,
            habits,
            connection: None,
            established: false,
            jobs: Vec::new(),
            last_call: 0,
        };
        client.put(stage, Duration::ZERO, Timer::Submit);
        client
    }

    fn put(&self, stage: &mut Stage, after: Duration, timer: Timer) {
        stage.agenda.put(stage.now + after, Happening::Client { which: self.which, timer });
    }

    /// Jobs that are waited for.
    pub fn waiting(&self) -> usize {
        self.jobs.iter().filter(|job| job.state != State::Over).count()
    }

    /// How long the rest takes at least, one after the other.
    pub fn left_to_do(&self) -> Duration {
        self.jobs.iter().filter(|job| job.state != State::Over).map(|job| job.action.length).sum()
    }

    pub fn describe(&self) -> Vec<String> {
        let left = self.jobs.iter().filter(|job| job.state != State::Over);
        left.map(|job| format!("client {}: {job:?}", self.which)).collect()
    }

    /// The client's machine is gone, and its jobs with it.
    pub fn stop(&mut self, stage: &mut Stage, tell: bool) {
        stage.log(|| format!("client {} is gone", self.which));
        stage.count("clients lost");
        (self.up, self.connection) = (false, None);
        self.jobs.iter_mut().for_each(|job| job.state = State::Over);
        stage.close_all(Some(self.host), tell);
    }

    pub fn on_timer(&mut self, stage: &mut Stage, timer: Timer) {
        match timer {
            Timer::ConnectTimeout(id) => {
                if self.connection == Some(id) && !self.established {
                    stage.close(id, End::Peer, true);
                    self.lost(stage, id);
                }
            }
            Timer::Submit if stage.rough => {
                if self.waiting() < self.habits.width {
                    self.submit(stage);
                }
                let pause = stage.rng.wait(0, self.habits.pause);
                self.put(stage, pause, Timer::Submit);
            }
            Timer::Submit => {}
            Timer::Retry { job } => {
                if self.jobs[job].state == State::Resting {
                    self.call(stage, job);
                }
            }
            Timer::Waver { job } => self.waver(stage, job),
        }
    }

    fn submit(&mut self, stage: &mut Stage) {
        let (habits, rng) = (self.habits.clone(), &mut stage.rng);
        let content: Content = rng.between(0, habits.contents);
        let alone = rng.chance(habits.alone);
        let usual = rng.between(1, habits.length);
        // Equal actions take the same time and need the same helper.
        let length = ms(if alone { usual } else { 1 + content * 7919 % habits.length });
        let picky = content % 100 < habits.picky;
        let guess =
            length * habits.guess as u32 / 100 * [50, 100, 100, 200][rng.between(0, 4) as usize] / 100;
        let action = Action {
            content,
            length,
            timeout: length * 3 + ms(rng.between(0, 5_000)),
            merge: !alone,
            user: habits.user,
            build: rng.between(0, 3),
            priority: if rng.chance(habits.urgent) { rng.between(0, 3) as i32 - 1 } else { 0 },
            expected: rng.chance(70).then_some(guess),
            system: picky.then_some(if content.is_multiple_of(2) { "linux" } else { "plan9" }),
        };
        let plan = match rng.chance(habits.fickle) {
            false => Plan::Wait,
            true if rng.chance(50) => Plan::Cancel,
            true => Plan::ComeBack,
        };
        let wavers = rng.wait(0, 8_000);
        let job = self.jobs.len();
        self.jobs.push(Job { action, plan, state: State::Resting, operation: None });
        stage.count("actions");
        self.call(stage, job);
        if plan != Plan::Wait {
            self.put(stage, wavers, Timer::Waver { job });
        }
    }

    /// Asks for a job's operation if it has one, or executes it.
    fn call(&mut self, stage: &mut Stage, job: usize) {
        let id = match self.connection {
            Some(id) => id,
            None => {
                let id = stage.connect(self.host);
                (self.connection, self.established) = (Some(id), false);
                self.put(stage, CONNECT, Timer::ConnectTimeout(id));
                id
            }
        };
        self.last_call += 1;
        let call = self.last_call;
        let job = &mut self.jobs[job];
        job.state = State::Called(call);
        let message = match job.operation.take() {
            Some(operation) => Message::WaitExecution { call, operation },
            None => Message::Execute { call, action: job.action.clone() },
        };
        stage.send(id, End::Peer, message);
    }

    fn waver(&mut self, stage: &mut Stage, job: usize) {
        let State::Called(call) = self.jobs[job].state else { return };
        let Some(id) = self.connection else { return };
        stage.send(id, End::Peer, Message::Reset { call });
        if self.jobs[job].plan == Plan::Cancel {
            stage.count("cancellations");
            self.jobs[job].state = State::Over;
            return;
        }
        stage.count("jobs left for a while");
        self.jobs[job].state = State::Resting;
        let away = stage.rng.wait(0, 4_000);
        self.put(stage, away, Timer::Retry { job });
    }

    pub fn opened(&mut self, id: ConnId) {
        self.established |= self.connection == Some(id);
    }

    /// All calls on the connection failed; what is waited for is tried again.
    pub fn lost(&mut self, stage: &mut Stage, id: ConnId) {
        if self.connection != Some(id) {
            return;
        }
        self.connection = None;
        for job in 0..self.jobs.len() {
            if matches!(self.jobs[job].state, State::Called(_)) {
                stage.count("calls that broke");
                self.again(stage, job, 3_000);
            }
        }
    }

    fn again(&mut self, stage: &mut Stage, job: usize, within: u64) {
        self.jobs[job].state = State::Resting;
        let rest = stage.rng.wait(100, within);
        self.put(stage, rest, Timer::Retry { job });
    }

    pub fn hear(&mut self, stage: &mut Stage, id: ConnId, message: Message) {
        if self.connection != Some(id) {
            return;
        }
        stage.log(|| format!("client {} hears {message:?}", self.which));
        let (Message::Update { call, .. } | Message::Done { call, .. } | Message::Unknown { call }) = message
        else {
            return stage.audit.broken(format!("a client heard {message:?}"));
        };
        let Some(job) = self.jobs.iter().position(|job| job.state == State::Called(call)) else {
            // It hung up meanwhile.
            return stage.count("updates that crossed with a cancellation");
        };
        match message {
            Message::Update { operation, .. } => self.jobs[job].operation = Some(operation),
            Message::Unknown { .. } => {
                stage.count("operations that were not known any more");
                self.call(stage, job);
            }
            Message::Done { ended: Ended::Answered(value), .. } => {
                if value.content != self.jobs[job].action.content {
                    stage.audit.broken(format!("{:?} was answered with {value:?}", self.jobs[job]));
                }
                self.jobs[job].state = State::Over;
            }
            Message::Done { ended: Ended::Never, .. } => self.jobs[job].state = State::Over,
            Message::Done { ended: Ended::NotNow, .. } => {
                stage.count("tries again");
                self.jobs[job].operation = None;
                self.again(stage, job, 5_000);
            }
            _ => {}
        }
    }
}
