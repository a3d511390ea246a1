//! What Postgres needs besides the migrations: the set-up that a superuser runs, and names that it and the services share.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// The version of the set-up that the services need; grows with every change to `set_up.sql` that they rely on.
pub const SET_UP_VERSION: i32 = 2;
/// The services' role on one machine, and the name of its database.
pub const SERVICE_ROLE: &str = "millrace";
/// What every login's name begins with; 16 hexadecimal digits follow.
pub const LOGIN_PREFIX: &str = "millrace_login_";
/// Connections that a login may have open.
pub const LOGIN_CONNECTIONS: u32 = 3;
/// Connections that logins leave to the services.
pub const SERVICE_CONNECTIONS: u32 = 25;
/// Seconds after which a login's statement, or its silence in a transaction, ends by itself, unless the login sets that.
pub const LOGIN_STATEMENT_SECONDS: u32 = 30;
/// Seconds after which a login's transaction is ended by us, whatever the login has set.
pub const LOGIN_OVERDUE_SECONDS: i32 = 60;
/// Bytes that a login's password may take, as Postgres keeps it; a verifier has 133.
const LOGIN_PASSWORD_BYTES_MAX: u32 = 1024;
/// SCRAM's iterations: Postgres's own number. Passwords here are random, more would add nothing.
const SCRAM_ITERATIONS: u32 = 4096;

/// Why a set-up cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be the services' role: a name of lower-case letters, digits and underscores, not beginning with pg_"
)]
pub struct RoleError(String);

/// The script that makes a Postgres ready for services which log in as `role`. It works in psql and in single-user mode
/// (`postgres --single -j`): there, a command ends with a semicolon and an empty line.
pub fn set_up(role: &str) -> Result<String, RoleError> {
    let is_plain = role.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    let begins_well = role.starts_with(|first: char| first.is_ascii_lowercase()) && !role.starts_with("pg_");
    let is_taken = ["public", "none", "user", "millrace_dashboard", "millrace_reader"].contains(&role);
    if !is_plain || !begins_well || is_taken || role.len() > 63 || role.starts_with(LOGIN_PREFIX) {
        return Err(RoleError(role.to_owned()));
    }
    Ok(fill(include_str!("../postgres/set_up/set_up.sql"), &[("role", role)]))
}

/// What follows the set-up on one machine, where Millrace has Postgres to itself: the password of its role, as a
/// [`scram_verifier`], and an end of all roles that are not Millrace's.
pub fn one_machine(verifier: &str) -> String {
    fill(include_str!("../postgres/set_up/one_machine.sql"), &[("verifier", verifier)])
}

fn fill(script: &str, values: &[(&str, &str)]) -> String {
    let numbers = [
        ("version", i64::from(SET_UP_VERSION)),
        ("login_connections", LOGIN_CONNECTIONS.into()),
        ("service_connections", SERVICE_CONNECTIONS.into()),
        ("statement_seconds", LOGIN_STATEMENT_SECONDS.into()),
        ("password_bytes", LOGIN_PASSWORD_BYTES_MAX.into()),
    ];
    let mut script = script.replace("{login_pattern}", &format!("^{LOGIN_PREFIX}[0-9a-f]{{16}}$"));
    for (name, value) in numbers {
        script = script.replace(&format!("{{{name}}}"), &value.to_string());
    }
    for (name, value) in values {
        script = script.replace(&format!("{{{name}}}"), value);
    }
    script
}

/// What Postgres keeps of a password (RFC 5802). Made here, the password itself never travels in a statement, and so never
/// stands in a log of Postgres. For random passwords of ASCII letters and digits: others would have to be normalised.
pub fn scram_verifier(password: &str, salt: [u8; 16]) -> String {
    let salted = {
        let mut block = keyed(password.as_bytes(), &[salt.as_slice(), &1_u32.to_be_bytes()].concat());
        let mut sum = block;
        for _ in 1..SCRAM_ITERATIONS {
            block = keyed(password.as_bytes(), &block);
            sum.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
        }
        sum
    };
    let stored: [u8; 32] = Sha256::digest(keyed(&salted, b"Client Key")).into();
    let server = keyed(&salted, b"Server Key");
    let mut verifier = format!("SCRAM-SHA-256${SCRAM_ITERATIONS}:{}", STANDARD.encode(salt));
    // Writing to a string cannot fail.
    let _ = write!(verifier, "${}:{}", STANDARD.encode(stored), STANDARD.encode(server));
    verifier
}

fn keyed(key: &[u8], message: &[u8]) -> [u8; 32] {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        unreachable!("HMAC takes keys of any length")
    };
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// A migration's text as it is run. The second would make the role `millrace_dashboard` and the third would grant it, which
/// takes rights that the services no longer have; the set-up has done both before. The migrations' own texts, and with them
/// their checksums, stay.
pub fn migration_text(version: i64, text: &str) -> String {
    match version {
        2 => text.replace(MAKES_DASHBOARD_ROLE, ""),
        3 => text.replace(GRANTS_DASHBOARD_ROLE, ""),
        _ => text.to_owned(),
    }
}

const MAKES_DASHBOARD_ROLE: &str = "DO $$
BEGIN
    CREATE ROLE millrace_dashboard NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
";

const GRANTS_DASHBOARD_ROLE: &str = "DO $$
BEGIN
    EXECUTE format('GRANT millrace_dashboard TO %I', current_user);
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'the role millrace_dashboard belongs to somebody else: grant it to %', current_user;
END $$;
";

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, whose server's keys Postgres would keep.
    #[test]
    fn a_verifier_is_what_postgres_computes() {
        let salt: [u8; 16] = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().try_into().unwrap();
        let verifier = scram_verifier("pencil", salt);
        assert_eq!(
            verifier,
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
             wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
    }

    #[test]
    fn a_script_has_no_gap_left_and_ends_its_commands() {
        for script in [set_up("millrace").unwrap(), one_machine("SCRAM-SHA-256$")] {
            let gaps: Vec<_> = script.match_indices('{').map(|(at, _)| &script[at..at + 12]).collect();
            assert!(
                gaps.iter()
                    .all(|gap| gap.starts_with("{16}") || gap.starts_with("{22}") || gap.starts_with("{43}")),
                "{gaps:?}"
            );
            // Single-user mode cuts there: inside of a body it must not.
            for command in script.split(";\n\n") {
                assert_eq!(command.matches("$function$").count() % 2, 0, "{command}");
                assert_eq!(command.matches("$do$").count() % 2, 0, "{command}");
            }
        }
    }

    #[test]
    fn a_role_is_a_plain_name() {
        for role in ["millrace", "millrace_2", "m"] {
            assert!(set_up(role).is_ok(), "{role}");
        }
        for role in
            ["", "Millrace", "a b", "a;b", "a\"b", "a'b", "1a", "pg_monitor", "public", "millrace_reader"]
        {
            assert_eq!(set_up(role), Err(RoleError(role.to_owned())));
        }
    }

    #[test]
    fn no_migration_makes_a_role() {
        let second = include_str!("../postgres/0002_rollups.sql");
        assert!(second.contains("CREATE ROLE") && !migration_text(2, second).contains("CREATE ROLE"));
        let third = include_str!("../postgres/0003_rollup_parts.sql");
        assert!(third.contains("GRANT") && !migration_text(3, third).contains("GRANT"));
        assert_eq!(migration_text(1, second), second);
    }
}
