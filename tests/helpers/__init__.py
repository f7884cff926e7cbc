"""What several tests share: small worlds, tasks and files, and programs that tests start."""
