//! Worked examples that stand in a prompt before the question (DRAG; Yue et al., 2024).

use std::fmt;

/// A question that was answered, with the passages and, for strategies of several steps, the chain that led there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demonstration {
    /// Texts of passages, in the order in which they stand.
    pub passages: Vec<String>,
    /// The question.
    pub question: String,
    /// Follow-up questions with their intermediate answers; none for one step.
    pub chain: Vec<(String, String)>,
    /// The answer.
    pub answer: String,
}

impl fmt::Display for Demonstration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (passage, number) in self.passages.iter().zip(1..) {
            writeln!(f, "Document [{number}]\n{passage}\n")?;
        }
        writeln!(f, "Question: {}", self.question)?;
        for (follow_up, answer) in &self.chain {
            writeln!(f, "Follow up: {follow_up}\nIntermediate answer: {answer}")?;
        }
        if self.chain.is_empty() {
            writeln!(f, "Answer: {}", self.answer)
        } else {
            writeln!(f, "So the final answer is: {}", self.answer)
        }
    }
}

/// The first `m` of some demonstrations that hold none of the answers, in lower case, anywhere: with the answer in a
/// demonstration, a prompt would give away what it asks. An answer without text is held by none.
pub fn without_answers(demonstrations: &[Demonstration], answers: &[&str], m: usize) -> Vec<Demonstration> {
    let answers = answers.iter().map(|answer| answer.trim().to_lowercase()).filter(|answer| !answer.is_empty());
    let answers: Vec<String> = answers.collect();
    let is_free = |demonstration: &&Demonstration| {
        let text = demonstration.to_string().to_lowercase();
        !answers.iter().any(|answer| text.contains(answer.as_str()))
    };
    demonstrations.iter().filter(is_free).take(m).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demonstration_that_gives_the_answer_away_is_left_out() {
        let demonstration = |question: &str, answer: &str| Demonstration {
            passages: vec!["Paris is a city.".to_owned()],
            question: question.to_owned(),
            answer: answer.to_owned(),
            ..Demonstration::default()
        };
        let all = [demonstration("One?", "Rome"), demonstration("Two?", "Bonn"), demonstration("Three?", "Oslo")];
        let kept = |answers: &[&str], m| {
            let kept = without_answers(&all, answers, m);
            kept.iter().map(|demonstration| demonstration.answer.clone()).collect::<Vec<_>>()
        };
        assert_eq!(kept(&["rome", " "], 9), ["Bonn", "Oslo"]);
        assert_eq!(kept(&["paris"], 9), [""; 0]);
        assert_eq!(kept(&[], 1), ["Rome"]);
    }

    #[test]
    fn chains_are_written_in_the_grammar_of_self_ask() {
        let mut demonstration =
            Demonstration { question: "Q?".to_owned(), answer: "A".to_owned(), ..Demonstration::default() };
        assert_eq!(demonstration.to_string(), "Question: Q?\nAnswer: A\n");
        demonstration.chain.push(("F?".to_owned(), "I".to_owned()));
        let expected = "Question: Q?\nFollow up: F?\nIntermediate answer: I\nSo the final answer is: A\n";
        assert_eq!(demonstration.to_string(), expected);
    }
}
