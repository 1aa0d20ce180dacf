//! Files of the Hugging Face hub.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Repo, RepoType};

use super::{Error, Progress, Result};

// How often a broken transfer is taken up again, from where it broke.
const RETRIES: usize = 3;

/// How the hub is reached.
#[derive(Clone, Debug, Default)]
pub(super) struct Hub {
    /// Address of the hub, where it is not the one of `HF_ENDPOINT` or the public one.
    pub(super) endpoint: Option<String>,
}

impl Hub {
    /// Downloads one file into `staging`; gives its path, and its SHA-256 where the hub states it.
    pub(super) fn download(
        &self,
        repo: &str,
        revision: &str,
        file: &str,
        staging: &Path,
        progress: &dyn Progress,
    ) -> Result<(PathBuf, Option<String>)> {
        let what = format!("hf:{repo}@{revision}/{file}");
        let failed = |error| classify(&what, staging, error);
        // The token is read before the cache folder is changed, for it lies in the usual one.
        let mut builder = ApiBuilder::from_env()
            .with_cache_dir(staging.to_owned())
            .with_retries(RETRIES)
            .with_progress(false)
            .with_user_agent("raglan", env!("CARGO_PKG_VERSION"));
        if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()) {
            builder = builder.with_token(Some(token));
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let repository = builder.build().map_err(failed)?.repo(Repo::with_revision(
            repo.to_owned(),
            RepoType::Model,
            revision.to_owned(),
        ));
        let bar = Bar { progress, what: format!("downloading {file}"), started: false, expected: 0 };
        let pointer = repository.download_with_progress(file, bar).map_err(failed)?;
        let blob = pointer.canonicalize().map_err(|e| Error::io(&pointer, e))?;
        // A file of the hub's large-file store is named by its SHA-256, one of its git store by a shorter hash.
        let stated = blob.file_name().and_then(|name| name.to_str()).filter(|name| name.len() == 64);
        let sha256 = stated.filter(|name| name.bytes().all(|b| b.is_ascii_hexdigit())).map(str::to_lowercase);
        Ok((blob, sha256))
    }
}

struct Bar<'a> {
    progress: &'a dyn Progress,
    what: String,
    started: bool,
    expected: usize,
}

impl hf_hub::api::Progress for Bar<'_> {
    /// Is called once more for each attempt.
    fn init(&mut self, size: usize, _filename: &str) {
        if !self.started {
            self.started = true;
            self.expected = size;
            self.progress.start(&self.what, Some(size as u64));
        }
    }

    fn update(&mut self, size: usize) {
        self.progress.advance(size as u64);
    }

    fn finish(&mut self) {
        self.progress.finish();
    }
}

fn classify(what: &str, staging: &Path, error: ApiError) -> Error {
    let what = what.to_owned();
    let error = match error {
        ApiError::TooManyRetries(last) => *last,
        other => other,
    };
    let message = error.to_string();
    match error {
        ApiError::IoError(source) => match Error::io(staging, source) {
            // A connection that breaks while its bytes are copied is also an I/O error.
            Error::Io { .. } => Error::NoNetwork { what, message },
            local => local,
        },
        ApiError::RequestError(_) => match message.split_once("http status: ").map(|(_, status)| status.trim()) {
            Some("404") => Error::HubNotFound { what },
            // The hub hides private repositories behind 401.
            Some("401" | "403") => Error::HubRefused { what },
            Some(_) => Error::HubFailed { what, message },
            None => Error::NoNetwork { what, message },
        },
        _ => Error::HubFailed { what, message },
    }
}
