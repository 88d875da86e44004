"""What a program does with searches: begin one, go on with it, and use what it found."""
