"""What the project's trainings share: resumable steps, batches, arithmetic that suits the CPU."""
