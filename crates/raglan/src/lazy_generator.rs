//! A language model that is loaded while others work.

use std::sync::{Mutex, OnceLock};
use std::thread::JoinHandle;

use raglan_core::{Answer, Context, Generator, PassageAttention};
use raglan_generate::ChatGenerator;

use crate::{Error, Result};

/// A generator whose weights are being loaded while the passages are sought, or when they are needed.
pub struct LazyGenerator {
    loaded: OnceLock<ChatGenerator>,
    loading: Mutex<Option<Loading>>,
}

type Load = dyn FnOnce() -> Result<ChatGenerator> + Send;

enum Loading {
    Begun(JoinHandle<Result<ChatGenerator>>),
    Later(Box<Load>),
}

impl LazyGenerator {
    pub(crate) fn begun(load: impl FnOnce() -> Result<ChatGenerator> + Send + 'static) -> Self {
        Self { loaded: OnceLock::new(), loading: Some(Loading::Begun(std::thread::spawn(load))).into() }
    }

    pub(crate) fn later(load: impl FnOnce() -> Result<ChatGenerator> + Send + 'static) -> Self {
        Self { loaded: OnceLock::new(), loading: Some(Loading::Later(Box::new(load))).into() }
    }

    /// The generator, if it has been needed.
    pub fn if_loaded(&self) -> Option<&ChatGenerator> {
        self.loaded.get()
    }

    /// The generator, once it is loaded.
    ///
    /// # Errors
    ///
    /// Whatever loading gave; after an error, that loading failed.
    pub fn loaded(&self) -> Result<&ChatGenerator> {
        let mut loading = self.loading.lock().expect("no thread panics while it holds the handle");
        let generator = match loading.take() {
            Some(Loading::Begun(handle)) => Some(handle.join().map_err(|_| Error::Loading)??),
            Some(Loading::Later(load)) => Some(load()?),
            None => None,
        };
        if let Some(generator) = generator {
            let _ = self.loaded.set(generator);
        }
        self.loaded.get().ok_or(Error::Loading)
    }
}

impl Generator for LazyGenerator {
    fn generate(
        &self,
        contexts: &[Context],
        on_text: &mut dyn FnMut(usize, &str),
    ) -> raglan_core::Result<Vec<raglan_core::Result<Answer>>> {
        let generator = self.loaded().map_err(|error| raglan_core::Error::part("language model", error))?;
        generator.generate(contexts, on_text)
    }

    fn attention(
        &self,
        context: &Context,
        first_layer: usize,
        n_layers: Option<usize>,
    ) -> raglan_core::Result<Option<PassageAttention>> {
        let generator = self.loaded().map_err(|error| raglan_core::Error::part("language model", error))?;
        generator.attention(context, first_layer, n_layers)
    }
}
