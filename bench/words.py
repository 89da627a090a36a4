"""Words as the pieces of a vocabulary, as BERT's tokenizer cuts them."""


def word_pieces(word, vocabulary):
    """Greedy longest-match-first WordPiece of one word."""
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = word[start:end] if start == 0 else "##" + word[start:end]
            if piece in vocabulary:
                pieces.append(vocabulary[piece])
                start = end
                break
        else:
            return [vocabulary["[UNK]"]]
    return pieces
