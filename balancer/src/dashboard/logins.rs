//! PURE. Who is logged in: each login has a random token, which ends when it is not used, after its lifetime, or when its
//! user is removed or gets another password.

use std::time::Duration;

use nsd_edge::password::same;

/// Bytes of a token: nobody guesses it.
pub(super) const TOKEN: usize = 32;
/// Logins at once, far more than people watch one balancer. One more ends the one that was not used for longest.
pub(super) const MOST: usize = 64;

pub(super) type Token = [u8; TOKEN];

/// `now` counts from any fixed moment.
#[derive(Debug)]
pub(super) struct Logins {
    idle: Duration,
    lifetime: Duration,
    all: Vec<Login>,
}

#[derive(Clone)]
struct Login {
    token: Token,
    user: String,
    since: Duration,
    used: Duration,
}

impl Logins {
    pub(super) fn new(idle: Duration, lifetime: Duration) -> Self {
        Self { idle, lifetime, all: Vec::new() }
    }

    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// The same logins under other times.
    pub(super) fn set_times(&mut self, idle: Duration, lifetime: Duration) {
        (self.idle, self.lifetime) = (idle, lifetime);
    }

    pub(super) fn begin(&mut self, token: Token, user: &str, now: Duration) {
        self.forget_ended(now);
        if self.all.len() >= MOST
            && let Some(oldest) = (0..self.all.len()).min_by_key(|at| self.all[*at].used)
        {
            self.all.swap_remove(oldest);
        }
        self.all.push(Login { token, user: user.to_owned(), since: now, used: now });
    }

    /// The user whose token this is; using it keeps it alive.
    pub(super) fn user(&mut self, token: &[u8], now: Duration) -> Option<&str> {
        self.forget_ended(now);
        let login = self.all.iter_mut().find(|login| same(&login.token, token))?;
        login.used = now;
        Some(&login.user)
    }

    pub(super) fn end(&mut self, token: &[u8]) {
        self.all.retain(|login| !same(&login.token, token));
    }

    /// Ends those of users who are not to `stay`.
    pub(super) fn retain(&mut self, stay: impl Fn(&str) -> bool) {
        self.all.retain(|login| stay(&login.user));
    }

    fn forget_ended(&mut self, now: Duration) {
        let (idle, lifetime) = (self.idle, self.lifetime);
        let before = |then: Duration, long| now.saturating_sub(then) < long;
        self.all.retain(|login| before(login.used, idle) && before(login.since, lifetime));
    }
}

/// Without the token.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: u64 = 10;
    const LIFETIME: u64 = 100;

    fn logins() -> Logins {
        Logins::new(Duration::from_secs(IDLE), Duration::from_secs(LIFETIME))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_login_ends_when_unused_and_after_its_lifetime() {
        let mut logins = logins();
        logins.begin([1; TOKEN], "anna", at(0));
        logins.begin([2; TOKEN], "bert", at(0));
        for second in (0..LIFETIME).step_by(5) {
            assert_eq!(logins.user(&[1; TOKEN], at(second)), Some("anna"), "{second}");
        }
        assert_eq!(logins.user(&[2; TOKEN], at(LIFETIME - 1)), None, "unused");
        assert_eq!(logins.user(&[1; TOKEN], at(LIFETIME)), None, "used, and old");
        assert!(logins.all.is_empty());
    }

    #[test]
    fn only_the_whole_token_counts() {
        let mut logins = logins();
        logins.begin([1; TOKEN], "anna", at(0));
        for wrong in [&[][..], &[1; TOKEN - 1], &[1; TOKEN + 1], &[0; TOKEN]] {
            assert_eq!(logins.user(wrong, at(1)), None);
        }
        logins.end(&[1; TOKEN]);
        assert_eq!(logins.user(&[1; TOKEN], at(1)), None);
    }

    #[test]
    fn at_the_limit_the_least_used_goes() {
        let mut logins = logins();
        for number in 0..=MOST {
            let second = number as u64 / 20;
            logins.begin([u8::try_from(number).unwrap(); TOKEN], "anna", at(second));
            logins.user(&[0; TOKEN], at(second));
        }
        assert_eq!(logins.all.len(), MOST);
        assert_eq!(logins.user(&[0; TOKEN], at(4)), Some("anna"), "it is in use");
        assert_eq!(logins.user(&[1; TOKEN], at(4)), None);
    }

    #[test]
    fn who_is_removed_is_out() {
        let mut logins = logins();
        logins.begin([1; TOKEN], "anna", at(0));
        logins.begin([2; TOKEN], "bert", at(0));
        logins.retain(|user| user != "anna");
        assert_eq!(logins.user(&[1; TOKEN], at(1)), None);
        assert_eq!(logins.user(&[2; TOKEN], at(1)), Some("bert"));
        assert!(!format!("{logins:?}").contains('2'), "a token is in the debug text");
    }
}
