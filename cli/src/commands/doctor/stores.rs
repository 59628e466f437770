//! Credentials of object stores: which are there, per scheme. Their values are never shown.

use std::path::Path;

use super::Finding;

/// A way to be known to a store: every one of these variables is set.
type Way = &'static [&'static str];

struct Scheme {
    scheme: &'static str,
    ways: &'static [Way],
    /// Files below the home folder that serve as well.
    files: &'static [&'static str],
    advice: &'static str,
}

/// The variables that object_store's `from_env` reads.
const SCHEMES: [Scheme; 3] = [
    Scheme {
        scheme: "s3://",
        ways: &[
            &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
            &["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"],
            &["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"],
            &["AWS_CONTAINER_CREDENTIALS_FULL_URI"],
        ],
        files: &[],
        advice: "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION (AWS_ENDPOINT_URL for other stores); \
                 on EC2 the instance's role is asked",
    },
    Scheme {
        scheme: "gs://",
        ways: &[
            &["GOOGLE_SERVICE_ACCOUNT"],
            &["GOOGLE_SERVICE_ACCOUNT_PATH"],
            &["GOOGLE_SERVICE_ACCOUNT_KEY"],
            &["GOOGLE_APPLICATION_CREDENTIALS"],
        ],
        files: &[".config/gcloud/application_default_credentials.json"],
        advice: "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run `gcloud auth application-default login`; \
                 on Google's machines the metadata server is asked",
    },
    Scheme {
        scheme: "az://",
        ways: &[
            &["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"],
            &["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_SAS_TOKEN"],
            &["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CLIENT_ID"],
            &["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_FEDERATED_TOKEN_FILE"],
        ],
        files: &[],
        advice: "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    },
];

/// Looks at this process's environment and home folder.
pub fn findings() -> Vec<Finding> {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let home = std::env::var_os("HOME").unwrap_or_default();
    let there = |file: &str| Path::new(&home).join(file).is_file();
    SCHEMES.iter().map(|scheme| scheme.finding(&set, &there)).collect()
}

impl Scheme {
    fn finding(&self, set: &dyn Fn(&str) -> bool, there: &dyn Fn(&str) -> bool) -> Finding {
        let way = self.ways.iter().find(|way| way.iter().all(|name| set(name)));
        let file = self.files.iter().find(|file| there(file));
        match (way, file) {
            (Some(way), _) => Finding::good(self.scheme, format!("credentials from {}", way.join(", "))),
            (None, Some(file)) => Finding::good(self.scheme, format!("credentials from ~/{file}")),
            (None, None) => Finding::absent(self.scheme, "no credentials in the environment", self.advice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Verdict;

    #[test]
    fn half_a_credential_is_none() {
        let s3 = &SCHEMES[0];
        let finding = s3.finding(&|name| name == "AWS_ACCESS_KEY_ID", &|_| false);
        assert_eq!(finding.verdict, Verdict::Absent);
        let finding = s3.finding(&|name| name == "AWS_ACCESS_KEY_ID" || name == "AWS_SECRET_ACCESS_KEY", &|_| false);
        assert_eq!(
            (finding.verdict, finding.found.as_str()),
            (Verdict::Good, "credentials from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY")
        );
    }

    #[test]
    fn a_file_serves_where_there_is_no_variable() {
        let finding = SCHEMES[1].finding(&|_| false, &|file| file.starts_with(".config/gcloud"));
        assert_eq!(finding.verdict, Verdict::Good);
    }
}
