//! Settings that hold secrets: what they must look like, checked without ever repeating them.
//!
//! Every message here names the setting and says what is wrong with it, never what it holds: messages end up in logs.

/// Characters of an admin token, at least.
pub const ADMIN_TOKEN_CHARS_MIN: usize = 32;
/// And at most: no header need be longer.
pub const ADMIN_TOKEN_CHARS_MAX: usize = 256;
/// Different characters in it, at least: one letter thirty times is as good as none.
const ADMIN_TOKEN_ALPHABET_MIN: usize = 8;

/// Parameters of a Postgres address that are understood.
const POSTGRES_PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// Why a setting is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The admin token is too easy to guess, or cannot be sent.
    #[error(
        "MILLRACE_ADMIN_TOKEN: {0}; it needs {ADMIN_TOKEN_CHARS_MIN} to {ADMIN_TOKEN_CHARS_MAX} visible ASCII characters, \
         no blanks; make one with: openssl rand -hex 32"
    )]
    AdminToken(&'static str),
    /// The address of Postgres cannot be read.
    #[error("MILLRACE_POSTGRES_URL: {0}; it looks like postgres://user:password@host:5432/database")]
    PostgresUrl(&'static str),
}

/// The admin token in a setting or a file, whose line may end.
pub fn admin_token(text: &str) -> Result<&str, Error> {
    let token = text.trim();
    let mut seen = [false; 128];
    for byte in token.bytes() {
        if !byte.is_ascii_graphic() {
            return Err(Error::AdminToken("it holds a blank or a character that is not ASCII"));
        }
        seen[usize::from(byte)] = true;
    }
    if token.len() < ADMIN_TOKEN_CHARS_MIN {
        return Err(Error::AdminToken("it is too short"));
    }
    if token.len() > ADMIN_TOKEN_CHARS_MAX {
        return Err(Error::AdminToken("it is too long"));
    }
    if seen.iter().filter(|seen| **seen).count() < ADMIN_TOKEN_ALPHABET_MIN {
        return Err(Error::AdminToken("it repeats a few characters"));
    }
    Ok(token)
}

/// Checks a Postgres address before a client reads it: clients log what they do not know in it, with its value, and that
/// may be a misspelt password.
pub fn check_postgres_url(url: &str) -> Result<(), Error> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(Error::PostgresUrl("it has no scheme"));
    };
    if !matches!(scheme, "postgres" | "postgresql") {
        return Err(Error::PostgresUrl("its scheme is not postgres"));
    }
    if rest.contains('#') {
        return Err(Error::PostgresUrl("it has a `#`, which must be written %23"));
    }
    let Some((_, query)) = rest.split_once('?') else { return Ok(()) };
    let is_known = |pair: &str| {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        POSTGRES_PARAMETERS.contains(&name) || (name.starts_with("options[") && name.ends_with(']'))
    };
    if query.split('&').all(|pair| pair.is_empty() || is_known(pair)) {
        Ok(())
    } else {
        Err(Error::PostgresUrl("it has a parameter that nobody knows after the `?`"))
    }
}

/// Whether an environment variable holds a secret, by its name: what `--help` must not show. For tests of command lines.
pub fn is_secret(variable: &str) -> bool {
    // An address may hold a password; so may client settings (`sasl.password=…`).
    const LAST_WORDS: [&str; 8] =
        ["URL", "PASSWORD", "TOKEN", "SECRET", "KEY", "CREDENTIALS", "SETTINGS", "OPTIONS"];
    let last = variable.rsplit('_').next().unwrap_or(variable);
    // A switch holds nothing.
    LAST_WORDS.contains(&last) && !variable.contains("_NO_")
}

/// The environment variables of a command that would be shown by `--help`, although they hold secrets; with all commands
/// below it. For tests of command lines.
pub fn secrets_in_help(command: &clap::Command) -> Vec<String> {
    let mut shown: Vec<String> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_env_values_set() && !argument.is_hide_env_set())
        .filter_map(|argument| argument.get_env()?.to_str())
        .filter(|variable| is_secret(variable))
        .map(str::to_owned)
        .collect();
    shown.extend(command.get_subcommands().flat_map(secrets_in_help));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_tokens_are_long_and_of_one_word() {
        let good = "0123456789abcdef0123456789abcdef";
        assert_eq!(admin_token(good), Ok(good));
        assert_eq!(admin_token(&format!(" {good}\n")), Ok(good), "files end in a newline");
        for bad in [
            "",
            "a",
            "admin",
            "0123456789abcdef0123456789abcde",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "0123456789abcdef 0123456789abcdef",
            "0123456789abcdef\u{e9}0123456789abcdef",
            "0123456789abcdef\t0123456789abcdef",
            &good.repeat(9),
        ] {
            let error = admin_token(bad).unwrap_err().to_string();
            assert!(
                error.contains("MILLRACE_ADMIN_TOKEN") && error.contains("openssl rand -hex 32"),
                "{error}"
            );
            assert!(bad.len() < 5 || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        for secret in ["MILLRACE_POSTGRES_URL", "MILLRACE_ADMIN_TOKEN", "MILLRACE_KAFKA_SETTINGS"] {
            assert!(is_secret(secret), "{secret}");
        }
        for open in ["MILLRACE_URL_PARAMETERS", "MILLRACE_PASSWORD_FILE", "MILLRACE_CLICKHOUSE_NO_PASSWORD"] {
            assert!(!is_secret(open), "{open}");
        }
    }

    #[test]
    fn addresses_hold_nothing_unknown() {
        for good in [
            "postgres://millrace@127.0.0.1:5433/millrace",
            "postgresql://u:p%40ss@h/d?sslmode=require&options[search_path]=x",
            "postgres://h/d?",
        ] {
            assert_eq!(check_postgres_url(good), Ok(()), "{good}");
        }
        for bad in [
            "u:canary@h/d",
            "http://u:canary@h/d",
            "postgres://u@h/d?pasword=canary",
            "postgres://u:p#canary@h/d",
        ] {
            let error = check_postgres_url(bad).unwrap_err().to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
