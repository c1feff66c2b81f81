//! The error text for a query that the server refuses.

use postgres::error::SqlState;

/// Returns the error text for a query that the server refuses. The profile is at
/// fault only if the role is (SQLSTATE class 28, or insufficient privilege).
/// Otherwise it is usually a file that could not be read, and PostgreSQL names it.
pub fn refusal(role: &str, code: Option<&SqlState>, said: &str) -> String {
    let is_of_role = |code: &SqlState| {
        code.code().starts_with("28") || *code == SqlState::INSUFFICIENT_PRIVILEGE
    };
    match code {
        Some(code) if !is_of_role(code) => format!(
            "PostgreSQL is up but cannot answer: {said}; if this is about a file of the backup, \
             pbkfs has logged why it cannot be read"
        ),
        _ => format!(
            "PostgreSQL is up but refuses the query from role \"{role}\" ({said}); is \
             postgres.role the cluster's superuser?"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_at_fault_only_where_the_server_says_so() {
        for (code, is_at_fault) in [
            (SqlState::INVALID_AUTHORIZATION_SPECIFICATION, true),
            (SqlState::INSUFFICIENT_PRIVILEGE, true),
            (SqlState::IO_ERROR, false),
            (SqlState::DATA_CORRUPTED, false),
        ] {
            let said = refusal("boss", Some(&code), "it said");
            assert_eq!(said.contains("postgres.role"), is_at_fault, "{said}");
            assert!(said.contains("it said"), "{said}");
        }
    }
}
