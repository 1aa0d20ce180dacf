//! A writer of texts for tests that writes what it is told.

use std::sync::Mutex;

use raglan_core::Meter;
use raglan_model::{Result, TextWriter, WritingRequest, Written, WrittenToken};

/// What is written for a request.
type Script = dyn Fn(&WritingRequest) -> Vec<String> + Send + Sync;

/// Gives the same texts to every request, as many as it wants; or what a function of the request says.
pub(crate) struct Scripted {
    write: Box<Script>,
    /// What was asked, in order.
    pub asked: Mutex<Vec<String>>,
}

impl Scripted {
    pub fn new(texts: &[&str]) -> Self {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        Self::by(move |_| texts.clone())
    }

    pub fn by(write: impl Fn(&WritingRequest) -> Vec<String> + Send + Sync + 'static) -> Self {
        Self { write: Box::new(write), asked: Mutex::default() }
    }
}

impl TextWriter for Scripted {
    fn write(&self, requests: &[WritingRequest], meter: &mut Meter) -> Result<Vec<Vec<Written>>> {
        let write = |request: &WritingRequest| {
            if !meter.allows(1) {
                return Vec::new();
            }
            meter.count(1, 1, 1);
            self.asked.lock().expect("no thread panics while it adds").push(request.prompt.user.clone());
            let texts = (self.write)(request).into_iter().take(request.n);
            let token = |text: &String| WrittenToken { text: text.clone(), log_probability: -1.0 };
            texts.map(|text| Written { tokens: vec![token(&text)], text, ended: true }).collect()
        };
        Ok(requests.iter().map(write).collect())
    }
}
