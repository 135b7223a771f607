//! PURE. The state of one server as a machine: what it waits for, and what moves it. Who performs checks, closes sessions
//! or reads files tells it through [`Input`]; what has to be done follows from the [`Transition`].

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// New, or back from a drain: no traffic before its first check, which decides alone.
    Joining,
    /// Takes sessions.
    Healthy,
    /// Failed its checks, or connections to it failed. Takes none until it has passed `rise` checks in a row.
    Unhealthy,
    /// An operator wants it empty: its sessions stay, no new ones.
    Draining,
    /// No longer in the settings: its sessions stay, and it is forgotten with the last of them.
    Gone,
}

impl State {
    /// Each with its name.
    pub const ALL: [(Self, &str); 5] = [
        (Self::Joining, "joining"),
        (Self::Healthy, "healthy"),
        (Self::Unhealthy, "unhealthy"),
        (Self::Draining, "draining"),
        (Self::Gone, "gone"),
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    CheckPassed,
    CheckFailed,
    /// A client's session could not be connected to it.
    ConnectFailed,
    /// A client's session was connected to it.
    Connected,
    Drain,
    Ready,
    Removed,
    /// In the settings again while sessions from before were still there.
    Returned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Whether checks are made while it is healthy. Without, it is trusted until connections fail.
    pub checked: bool,
    pub rise: u32,
    pub fall: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    pub from: State,
    pub to: State,
}

#[derive(Debug, Clone)]
pub struct Machine {
    state: State,
    /// Failures in a row while healthy, successes in a row while unhealthy.
    streak: u32,
    rules: Rules,
}

impl Machine {
    pub fn new(rules: Rules) -> Self {
        Self { state: Self::start(rules), streak: 0, rules }
    }

    /// Goes on where another process's machine was.
    pub fn continued(state: State, streak: u32, rules: Rules) -> Self {
        let state = if matches!(state, State::Joining | State::Gone) { Self::start(rules) } else { state };
        Self { state, streak, rules }
    }

    fn start(rules: Rules) -> State {
        if rules.checked { State::Joining } else { State::Healthy }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Of what speaks against the state, so many in a row.
    pub fn streak(&self) -> u32 {
        self.streak
    }

    /// Whether the next connection success would change anything: spares the common case a lock.
    pub fn is_suspect(&self) -> bool {
        self.state == State::Healthy && self.streak > 0
    }

    pub fn rules(&self) -> Rules {
        self.rules
    }

    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
        if self.state == State::Joining && !rules.checked {
            self.state = State::Healthy;
        }
    }

    pub fn on(&mut self, input: Input) -> Option<Transition> {
        let from = self.state;
        self.state = self.next(input);
        if self.state == from {
            return None;
        }
        self.streak = 0;
        Some(Transition { from, to: self.state })
    }

    fn next(&mut self, input: Input) -> State {
        use Input::{CheckFailed, CheckPassed, ConnectFailed, Connected, Drain, Ready, Removed, Returned};
        use State::{Draining, Gone, Healthy, Joining, Unhealthy};
        match (self.state, input) {
            (Gone, Returned) => Self::start(self.rules),
            (Gone, _) | (_, Removed) => Gone,
            (_, Drain) => Draining,
            (Draining, Ready) => Self::start(self.rules),
            (Joining, CheckPassed) => Healthy,
            (Joining, CheckFailed) => Unhealthy,
            (Healthy, CheckFailed | ConnectFailed) => self.count(self.rules.fall, Unhealthy),
            (Unhealthy, CheckPassed) => self.count(self.rules.rise, Healthy),
            (Healthy, CheckPassed) | (Unhealthy, CheckFailed | ConnectFailed) => self.forget(),
            // Taking a connection proves less than a check does, so it only counts where there are none.
            (Healthy, Connected) if !self.rules.checked => self.forget(),
            (state, _) => state,
        }
    }

    fn count(&mut self, enough: u32, then: State) -> State {
        self.streak += 1;
        if self.streak >= enough { then } else { self.state }
    }

    fn forget(&mut self) -> State {
        self.streak = 0;
        self.state
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Input::*;
    use State::*;

    const INPUTS: [Input; 8] =
        [CheckPassed, CheckFailed, ConnectFailed, Connected, Drain, Ready, Removed, Returned];
    const RULES: Rules = Rules { checked: true, rise: 1, fall: 1 };

    fn in_state(state: State) -> Machine {
        Machine { state, streak: 0, rules: RULES }
    }

    #[test]
    fn every_state_with_every_input() {
        let table = [
            (Joining, [Healthy, Unhealthy, Joining, Joining, Draining, Joining, Gone, Joining]),
            (Healthy, [Healthy, Unhealthy, Unhealthy, Healthy, Draining, Healthy, Gone, Healthy]),
            (Unhealthy, [Healthy, Unhealthy, Unhealthy, Unhealthy, Draining, Unhealthy, Gone, Unhealthy]),
            (Draining, [Draining, Draining, Draining, Draining, Draining, Joining, Gone, Draining]),
            (Gone, [Gone, Gone, Gone, Gone, Gone, Gone, Gone, Joining]),
        ];
        for (from, results) in table {
            for (input, to) in INPUTS.into_iter().zip(results) {
                let transition = in_state(from).on(input);
                let expected = (from != to).then_some(Transition { from, to });
                assert_eq!(transition, expected, "{from:?} on {input:?}");
            }
        }
    }

    #[test]
    fn only_results_in_a_row_count() {
        let mut machine = Machine::new(Rules { checked: true, rise: 2, fall: 3 });
        let mut feed = |inputs: &[Input]| {
            inputs.iter().for_each(|input| {
                machine.on(*input);
            });
            machine.state()
        };
        assert_eq!(feed(&[CheckPassed]), Healthy, "the first check decides alone");
        assert_eq!(feed(&[CheckFailed, ConnectFailed, CheckPassed, CheckFailed, CheckFailed]), Healthy);
        assert_eq!(feed(&[ConnectFailed]), Unhealthy);
        assert_eq!(feed(&[CheckPassed, CheckFailed, CheckPassed]), Unhealthy);
        assert_eq!(feed(&[CheckPassed]), Healthy);
    }

    #[test]
    fn without_checks_connections_decide() {
        let mut machine = Machine::new(Rules { checked: false, rise: 1, fall: 2 });
        assert_eq!(machine.state(), Healthy);
        machine.on(ConnectFailed);
        assert!(machine.is_suspect());
        machine.on(Connected);
        machine.on(ConnectFailed);
        assert_eq!(machine.state(), Healthy);
        machine.on(ConnectFailed);
        assert_eq!(machine.state(), Unhealthy);
        machine.on(CheckPassed);
        assert_eq!(machine.state(), Healthy);
    }

    #[test]
    fn another_process_goes_on_where_one_was() {
        for (state, then) in [(Joining, Joining), (Gone, Joining), (Draining, Draining), (Healthy, Healthy)] {
            assert_eq!(Machine::continued(state, 0, RULES).state(), then);
        }
        let mut machine = Machine::continued(Healthy, 1, Rules { fall: 2, ..RULES });
        assert_eq!(machine.on(CheckFailed), Some(Transition { from: Healthy, to: Unhealthy }));
    }

    proptest! {
        #[test]
        fn a_transition_is_told_exactly_when_the_state_changes(
            inputs in prop::collection::vec(prop::sample::select(&INPUTS[..]), 0..60),
            checked: bool, rise in 1..4u32, fall in 1..4u32,
        ) {
            let mut machine = Machine::new(Rules { checked, rise, fall });
            for input in inputs {
                let before = machine.state();
                let told = machine.on(input);
                let changed = (before != machine.state()).then(|| Transition { from: before, to: machine.state() });
                prop_assert_eq!(told, changed);
                prop_assert!(before != Gone || input == Returned || machine.state() == Gone);
            }
        }
    }
}
